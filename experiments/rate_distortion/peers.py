"""Rivals with an environment of their own, driven as a program, never a dependency.

NNCodec 2.1.3 is the reference software of Neural Network Coding, ISO/IEC 15938-17
(Becking et al., "NNCodec", 2023; Kirchhoffer et al., "Overview of the neural network
compression and representation (NNR) standard", 2021): one step for all coordinates,
rounding or a trellis of eight states ("dependent quantization"), and context-adaptive
binary arithmetic coding. How it is called, and with which options, is in
`nncodec_peer.py`, which the other interpreter runs.

Its error is that of the least-squares scale, four bytes that are counted as sent.
"""

import itertools
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedjax_comp.experiment.main import UsageError
from fedjax_comp.run_directory import Json

SCRIPT = Path(__file__).with_name("nncodec_peer.py")
FAMILIES = {"NNCodec": False, "NNCodec, dependent quantization": True}
"""Family to whether it has dependent quantization."""

STEPS = tuple(round(2 ** (k / 2), 4) for k in range(-5, 10))
"""Quantization steps by the root mean square of an update."""

LAMBDA_SCALE = 1.0
"""Of the codec's rate-distortion optimisation: 1 takes the fewest bytes at equal error
on most recorded updates and rates; 0, the codec's default, switches it off."""

ISOLATED = "-I"
"""Python's flag by which no module of this folder or of the caller is taken for one of
the peer's own."""

READY = "ready"
CHECK = f"from nncodec import nnc; print({READY!r})"
HOW = "python -m venv DIR; DIR/bin/pip install nncodec==2.1.3"


def check_python(python: str) -> str:
    """The interpreter of `--nncodec_python`, with `~` written out.

    Args:
      python: as the flag says it.

    Raises:
      UsageError: when it does not exist or cannot import NNCodec.
    """
    path = Path(python).expanduser()
    if not path.is_file():
        raise UsageError(
            f"--nncodec_python={python}: there is no such file; to make one: {HOW}; "
            "then give DIR/bin/python."
        )
    try:
        done = subprocess.run(
            [path.absolute(), ISOLATED, "-c", CHECK],
            capture_output=True,
            text=True,
            check=False,
        )
        is_ready = done.stdout.strip() == READY
        reason = "" if is_ready else last_line(done.stderr)
    except OSError as error:
        reason = str(error.strerror)
    if reason:
        raise UsageError(
            f"--nncodec_python={python} cannot import nncodec ({reason}); to make one "
            f"that can: {HOW}; then give DIR/bin/python."
        )
    return str(path.absolute())


def expressions() -> dict[str, Json]:
    """Each setting that is measured, with its family, by what the table calls it.

    >>> next(iter(expressions()))
    'nncodec(step=0.1768, use_dq=False)'
    """
    return {
        f"nncodec(step={step:g}, use_dq={use_dq})": {
            "family": family,
            "step": step,
            "use_dq": use_dq,
            "lambda_scale": LAMBDA_SCALE,
        }
        for (family, use_dq), step in itertools.product(FAMILIES.items(), STEPS)
    }


def measure_peer(
    python: str, updates: Path, num_clients: int, settings: Sequence[Json]
) -> list[Json]:
    """Encodes and decodes recorded updates with NNCodec.

    Args:
      python: an interpreter that `check_python` has let pass.
      updates: an `.npz` file with an array for each leaf, `[C, ...]`.
      num_clients: how many of the `C` are taken.
      settings: `step`, `use_dq` and `lambda_scale` of each.

    Returns:
      For each setting the columns of a `Measurement` that apply to it.

    Raises:
      ChildProcessError: when the program fails, with the last line that it wrote, or
        leaves a setting out.
    """
    done = subprocess.run(
        [python, ISOLATED, SCRIPT, updates.absolute(), str(num_clients)],
        input=json.dumps(list(settings)),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ChildProcessError(f"NNCodec failed: {last_line(done.stderr)}")
    results = [json.loads(line) for line in done.stdout.splitlines()]
    if len(results) != len(settings):
        raise ChildProcessError(f"NNCodec gave {len(results)} of {len(settings)} rows.")
    return [to_measured(result) for result in results]


def to_measured(result: Json) -> Json:
    """The columns of a row, from what the peer says of each client."""
    clients = result["clients"]

    def values(name: str) -> list[float]:
        return [client[name] for client in clients]

    vnmse = float(np.mean(values("vnmse")))
    # None where nothing was left of an update, which no scale makes unbiased.
    rescaled = values("vnmse_rescaled")
    return {
        "rate_bits": float(np.mean(values("rate_bits"))),
        "vnmse": vnmse,
        "vnmse_rescaled": None if None in rescaled else float(np.mean(rescaled)),
        # Nothing is drawn: all of the error is bias.
        "bias": vnmse**0.5,
        "bias_noise": vnmse**0.5,
        "bias_score": None,
        "nmse": result["nmse"],
        "encode_seconds": min(values("encode_seconds")),
        "decode_seconds": min(values("decode_seconds")),
        "pack_seconds": None,
        "messages": len(clients),
        "written": len(clients),
        "n": result["n"],
    }


def last_line(text: str) -> str:
    r"""What a program said last; its status where it said nothing.

    >>> last_line("Traceback ...\nValueError: no qp\n")
    'ValueError: no qp'
    """
    lines = text.strip().splitlines()
    return lines[-1] if lines else "without a word"
