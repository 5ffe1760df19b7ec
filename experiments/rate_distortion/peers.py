"""Runs rivals as programs in environments of their own; none is a dependency.

NNCodec 2.1.3 is the reference software of Neural Network Coding, ISO/IEC 15938-17
(Becking et al., "NNCodec", 2023; Kirchhoffer et al., "Overview of the neural network
compression and representation (NNR) standard", 2021): one step for all coordinates,
rounding or a trellis of eight states ("dependent quantization"), and context-adaptive
binary arithmetic coding. Its error is measured after scaling by least squares; the
scale counts as four bytes sent. EDEN's published code is what the paper's authors
measured (Vargaftik et al., "EDEN", 2022): the oracle for `eden_fixed_rate`.

`nncodec_peer.py` and `eden_peer.py` say how each is called and with which options; the
other environment's Python runs them.
"""

import itertools
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import flags

from experiments.rate_distortion.table import Entry
from fedjax_comp.experiment.main import UsageError
from fedjax_comp.run_directory import Json

HERE = Path(__file__).parent

STEPS = tuple(round(2 ** (k / 2), 4) for k in range(-5, 10))
"""NNCodec's quantization steps by the root mean square of an update."""

LAMBDA_SCALE = 1.0
"""Of the codec's rate-distortion optimisation: 1 takes the fewest bytes at equal error
on most recorded updates and rates; 0, the codec's default, switches it off."""

EDEN_BITS = (0.1, 0.5, 1, 2, 3, 4)

ISOLATED = "-I"
"""Python's flag by which no module of this folder or of the caller is taken for one of
the peer's own."""

READY = "ready"


class Peer(NamedTuple):
    """A rival, and what it is asked for.

    Attributes:
      name: of it, for people.
      flag: its interpreter's, without the dashes.
      check: a program that prints `READY` when the interpreter has it.
      how: commands that make such an interpreter.
      script: what the interpreter runs.
      entries: the table's entry of each setting, and the setting.
      folder_flag: of a folder that `check` and `script` are given first, if any.
    """

    name: str
    flag: str
    check: str
    how: str
    script: Path
    entries: Sequence[tuple[Entry, Json]]
    folder_flag: str | None = None


NNCODEC = Peer(
    name="NNCodec",
    flag="nncodec_python",
    check=f"from nncodec import nnc; print({READY!r})",
    how="python -m venv DIR; DIR/bin/pip install nncodec==2.1.3; then give "
    "DIR/bin/python",
    script=HERE / "nncodec_peer.py",
    entries=[
        (
            Entry(family, f"nncodec(step={step:g}, use_dq={use_dq})", unbiased=False),
            {"step": step, "use_dq": use_dq, "lambda_scale": LAMBDA_SCALE},
        )
        for (family, use_dq), step in itertools.product(
            (("NNCodec", False), ("NNCodec, dependent quantization", True)), STEPS
        )
    ],
)
EDEN = Peer(
    name="EDEN's published code",
    flag="eden_python",
    check="import sys; sys.path.insert(0, sys.argv[1]); from eden import eden_builder; "
    f"print({READY!r})",
    how="python -m venv DIR; DIR/bin/pip install torch numpy; git clone "
    "https://github.com/amitport/EDEN-Distributed-Mean-Estimation EDEN; then give "
    "DIR/bin/python, and EDEN/torch as --eden_folder",
    script=HERE / "eden_peer.py",
    entries=[
        (Entry("EDEN, published code", f"published_eden({bits:g})"), {"bits": bits})
        for bits in EDEN_BITS
    ],
    folder_flag="eden_folder",
)
PEERS = (NNCODEC, EDEN)
PEER_FLAGS = ("nncodec_python", "eden_python", "eden_folder")


def given(values: flags.FlagValues) -> list[tuple[Peer, list[str]]]:
    """The peers whose interpreters are given, and what each command begins with.

    Raises:
      UsageError: when one does not exist or cannot import its peer, or when a folder is
        given without the interpreter that would use it.
    """
    for peer in PEERS:
        flag = peer.folder_flag
        if flag and values[flag].value and not values[peer.flag].value:
            raise UsageError(f"--{flag} is for --{peer.flag}, which is not given.")
    return [
        (peer, check_python(peer, values)) for peer in PEERS if values[peer.flag].value
    ]


def check_python(peer: Peer, values: flags.FlagValues) -> list[str]:
    """The interpreter of a peer's flag, `~` written out, its script, and its folder.

    Raises:
      UsageError: when it does not exist or cannot import the peer.
    """
    python = str(values[peer.flag].value)
    path = Path(python).expanduser()
    if not path.is_file():
        raise UsageError(
            f"--{peer.flag}={python}: there is no such file; to make one: {peer.how}."
        )
    folder = [_folder(peer, peer.folder_flag, values)] if peer.folder_flag else []
    start = [str(path.absolute()), ISOLATED]
    try:
        done = subprocess.run(
            [*start, "-c", peer.check, *folder],
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
            f"--{peer.flag}={python} cannot import {peer.name} ({reason}); to make one "
            f"that can: {peer.how}."
        )
    return [*start, str(peer.script), *folder]


def _folder(peer: Peer, flag: str, values: flags.FlagValues) -> str:
    folder = values[flag].value
    if not folder or not Path(folder).expanduser().is_dir():
        raise UsageError(
            f"--{flag}={folder or ''}: --{peer.flag} needs the folder of {peer.name}; "
            f"to make one: {peer.how}."
        )
    return str(Path(folder).expanduser().absolute())


def measure_peer(
    peer: Peer, command: Sequence[str], updates: Path, num_clients: int
) -> list[Json]:
    """Encodes and decodes recorded updates with a peer, at all its settings.

    Args:
      peer: which.
      command: of `given`.
      updates: an `.npz` file with an array for each leaf, `[C, ...]`.
      num_clients: how many of the `C` are taken.

    Returns:
      For each of the peer's entries the columns of a `Measurement` that apply to it.

    Raises:
      ChildProcessError: when the program fails, with the last line that it wrote, or
        leaves a setting out.
    """
    done = subprocess.run(
        [*command, updates.absolute(), str(num_clients)],
        input=json.dumps([setting for _, setting in peer.entries]),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ChildProcessError(f"{peer.name} failed: {last_line(done.stderr)}")
    results = [json.loads(line) for line in done.stdout.splitlines()]
    if len(results) != len(peer.entries):
        raise ChildProcessError(
            f"{peer.name} gave {len(results)} of {len(peer.entries)} rows."
        )
    return [
        to_measured(result, drawn=entry.unbiased)
        for result, (entry, _) in zip(results, peer.entries, strict=True)
    ]


def to_measured(result: Json, *, drawn: bool) -> Json:
    """The columns of a row, from what the peer says of each client.

    Args:
      result: a line of the peer's program.
      drawn: whether its error is random, so that one message each shows no bias.
    """
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
        # Where nothing is drawn, all of the error is bias.
        "bias": None if drawn else vnmse**0.5,
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
