"""Encodes recorded updates with NNCodec; run by a Python that has NNCodec.

    PYTHON nncodec_peer.py UPDATES.npz NUM_CLIENTS < settings.json > results.jsonl

It imports nothing of this package, and NNCodec only to encode and decode. `UPDATES.npz`
has one array `[C, ...]` for each leaf. Standard input is a JSON list of settings
(`step`, `use_dq`, `lambda_scale`); standard output gets a line of JSON for each.

NNCodec (ISO/IEC 15938-17) quantizes here with one step for all leaves: `qp` and
`nonweight_qp` are equal, `step` times the update's root mean square, rounded to the
codec's quarters of an octave. Beyond its defaults this script uses whatever makes
messages smaller at equal error:

- rate-distortion optimised quantization (`lambda_scale`) and row skipping;
- for each tensor the order of axes that takes fewer bytes: output channels first, as
  the standard expects it, or as it is stored;
- tensors that differ in the first axis alone, and so all vectors, are stacked as one,
  because a tensor has a header of some twenty bytes;
- names have one letter, because they are sent.
"""

import contextlib
import json
import math
import string
import sys
import time
from typing import Any

import numpy as np

SCALE_BYTES = 4
"""For the float32 scale of the decoder, which NNCodec does not send."""

Leaves = list[np.ndarray]
Setting = dict[str, Any]

LETTERS = string.ascii_letters + string.digits


def main() -> None:
    """Reads the settings, encodes, decodes and writes a line a setting."""
    path, num_clients = sys.argv[1], int(sys.argv[2])
    settings = json.load(sys.stdin)
    out = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):  # the codec prints remarks
        with np.load(path) as kept:
            stacked = [np.asarray(kept[name], np.float32) for name in kept.files]
        clients = [[leaf[c] for leaf in stacked] for c in range(num_clients)]
        turned = orders(clients[0])
        for setting in settings:
            result = {**setting, **measure(clients, turned, setting)}
            print(json.dumps(result), file=out, flush=True)


def measure(clients: list[Leaves], turned: list[bool], setting: Setting) -> Setting:
    """Errors, bytes and times of one setting, of each client and of their mean."""
    rows, powers = [], []
    cohort_error = np.zeros(sum(leaf.size for leaf in clients[0]))
    for leaves in clients:
        exact = flat(leaves)
        qp = to_qp(setting["step"] * math.sqrt(np.mean(exact**2)))
        started = time.perf_counter()
        stream = encode(arranged(leaves, turned), qp, setting)
        encoded = time.perf_counter()
        decoded = flat(restored(decode(stream), leaves, turned))
        finished = time.perf_counter()
        power = exact @ exact
        product, square = exact @ decoded, decoded @ decoded
        # An update of which nothing is left has no scale: it decodes to zeros.
        gain = product / square if square > 0 else 0.0
        error = gain * decoded - exact
        cohort_error += error
        powers.append(power)
        rows.append(
            {
                "qp": qp,
                "bytes": len(stream) + SCALE_BYTES,
                "rate_bits": 8 * (len(stream) + SCALE_BYTES) / exact.size,
                "vnmse": error @ error / power,
                "vnmse_unscaled": (decoded - exact) @ (decoded - exact) / power,
                "vnmse_rescaled": power * square / product**2 - 1 if product else None,
                "encode_seconds": encoded - started,
                "decode_seconds": finished - encoded,
            }
        )
    nmse = cohort_error @ cohort_error / len(clients) ** 2 / np.mean(powers)
    return {"n": int(exact.size), "nmse": float(nmse), "clients": rows}


def encode(arrays: dict[str, np.ndarray], qp: int, setting: Setting) -> bytearray:
    """The bytes of a whole update."""
    from nncodec import nnc

    return nnc.compress(
        arrays,
        bitstream_path=None,
        return_bitstream=True,
        verbose=False,
        qp=qp,
        nonweight_qp=qp,
        use_dq=setting["use_dq"],
        lambda_scale=setting["lambda_scale"],
        row_skipping=True,
    )


def decode(stream: bytearray) -> dict[str, np.ndarray]:
    """The arrays that bytes decode to."""
    from nncodec import nnc

    return nnc.decompress(stream)


def to_qp(step: float) -> int:
    """The quantization parameter of a step: NNCodec has four in an octave."""
    return round(4 * math.log2(step))


def orders(leaves: Leaves) -> list[bool]:
    """For each leaf, whether it takes fewer bytes with its output channels first.

    Found once, with plain rounding, whose error is the same in any order.
    """
    plain: Setting = {"use_dq": False, "lambda_scale": 0.0}
    qp = to_qp(2 * math.sqrt(np.mean(flat(leaves) ** 2)))
    turned = []
    for leaf in leaves:
        if leaf.ndim < 2:
            turned.append(False)
            continue
        sizes = [
            len(encode(arranged([leaf], [turn]), qp, plain)) for turn in (False, True)
        ]
        turned.append(sizes[1] < sizes[0])
    return turned


def axes(ndim: int) -> tuple[int, ...]:
    """From `[..., I, O]` to `[O, I, ...]`."""
    return (ndim - 1, ndim - 2, *range(ndim - 2))


def shown(leaf: np.ndarray, turn: bool) -> np.ndarray:
    """A leaf as the codec sees it; a scalar as a vector."""
    if leaf.ndim < 2:
        return leaf.ravel()
    return leaf.transpose(axes(leaf.ndim)) if turn else leaf


def stacks(arrays: Leaves) -> list[list[int]]:
    """Which arrays are stacked: those of one shape but for the first axis."""
    found: dict[tuple[int, ...], list[int]] = {}
    for i, array in enumerate(arrays):
        found.setdefault(array.shape[1:], []).append(i)
    return list(found.values())


def arranged(leaves: Leaves, turned: list[bool]) -> dict[str, np.ndarray]:
    """What the codec takes: contiguous arrays by name."""
    arrays = [shown(leaf, turn) for leaf, turn in zip(leaves, turned, strict=True)]
    return {
        to_name(i): np.ascontiguousarray(np.concatenate([arrays[j] for j in stack]))
        for i, stack in enumerate(stacks(arrays))
    }


def restored(
    stacked: dict[str, np.ndarray], leaves: Leaves, turned: list[bool]
) -> Leaves:
    """The decoded leaves as they were stored."""
    arrays = [shown(leaf, turn) for leaf, turn in zip(leaves, turned, strict=True)]
    found: Leaves = list(leaves)
    for i, stack in enumerate(stacks(arrays)):
        ends = np.cumsum([len(arrays[j]) for j in stack])[:-1]
        for j, part in zip(stack, np.split(stacked[to_name(i)], ends), strict=True):
            back = part.transpose(np.argsort(axes(part.ndim))) if turned[j] else part
            found[j] = back.reshape(leaves[j].shape)
    return found


def to_name(index: int) -> str:
    """A short name: NNCodec sends it."""
    name = LETTERS[index % len(LETTERS)]
    return name if index < len(LETTERS) else to_name(index // len(LETTERS) - 1) + name


def flat(leaves: Leaves) -> np.ndarray:
    """All coordinates end to end, float64 `[n]`."""
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in leaves])


if __name__ == "__main__":
    main()
