"""The processes that a command is one of, from its flags."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping

import jax
from absl import flags

from fedjax_comp import distributed
from fedjax_comp.experiment.errors import UsageError
from fedjax_comp.experiment.flags import PROCESSES, as_dict
from fedjax_comp.run_directory import SPEED_ONLY_FLAGS

SHARED = ("auto", "sharded")
"""Executions that spread a cohort over the devices of all processes."""


@contextlib.contextmanager
def joined(name: str, values: flags.FlagValues) -> Iterator[None]:
    """Joins the processes that the flags or a cluster tell of, if any, and leaves them.

    All but the first are silent on standard output.

    Args:
      name: the experiment's name, for messages.
      values: the command's flags, parsed.

    Raises:
      UsageError: for flags that cannot be meant, or that differ between processes.
    """
    if not wanted(values):
        yield
        return
    address, number, own = (values[name].value for name in PROCESSES)
    try:
        distributed.join(address, number, own)
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"the processes could not be joined: {error}") from error
    if distributed.count() == 1:
        yield
        return
    ours = {n: x for n, x in as_dict(values).items() if n not in SPEED_ONLY_FLAGS}
    with _sudden_end_told(name), contextlib.ExitStack() as exits:
        if not distributed.is_first():
            nowhere = exits.enter_context(open(os.devnull, "w", encoding="utf-8"))
            exits.enter_context(contextlib.redirect_stdout(nowhere))
        try:
            with distributed.in_step():
                _require_same_flags(ours)
                yield
                # The first may have more to do, and may fail in it.
                if distributed.is_first():
                    distributed.tell({"do": "done"})
                else:
                    distributed.hear()
        except distributed.PeerLost:
            raise
        except BaseException:
            jax.distributed.shutdown()
            raise
        jax.distributed.shutdown()


_WATCH = """
import signal, sys
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
if not sys.stdin.buffer.read():
    print(sys.argv[1], file=sys.stderr)
"""


@contextlib.contextmanager
def _sudden_end_told(name: str) -> Iterator[None]:
    """Has a small process say what it means when this one ends without a word.

    When another process dies jaxlib ends this one from a thread of its own, by abort,
    after its own account of some thousand characters.
    """
    told = (
        f"{name}: process {jax.process_index()} of {jax.process_count()} ended "
        "suddenly: it was killed, or another of them has ended, and what that one said "
        "is why; the same command in all of them goes on at the last checkpoint."
    )
    watcher = subprocess.Popen(
        [sys.executable, "-IS", "-c", _WATCH, told], stdin=subprocess.PIPE
    )
    assert watcher.stdin is not None  # as asked for
    try:
        yield
    finally:
        watcher.stdin.write(b".")
        watcher.stdin.close()
        watcher.wait()


def _require_same_flags(ours: Mapping[str, object]) -> None:
    try:
        distributed.require_same("flags", ours)
    except ValueError as error:
        raise UsageError(str(error)) from error


def wanted(values: flags.FlagValues) -> bool:
    """Whether there are other processes to be joined.

    Raises:
      UsageError: for flags that cannot be meant.
    """
    if "num_processes" not in values:
        return False
    address, number, own = (values[name].value for name in PROCESSES)
    if number == 1:
        return False
    if address is None and number is None and own is None:
        if not distributed.in_cluster():
            return False
    elif address is None or number is None or own is None:
        missing = [f"--{name}" for name in PROCESSES if values[name].value is None]
        raise UsageError(
            f"{' and '.join(missing)} missing: several processes need "
            "--coordinator_address=HOST:PORT, --num_processes and --process_id."
        )
    elif own >= number:
        raise UsageError(
            f"--process_id={own} is not one of --num_processes={number}, 0 to "
            f"{number - 1}."
        )
    elif not address.rpartition(":")[2].isdigit():
        raise UsageError(
            f"--coordinator_address={address} is not of the form HOST:PORT, e.g. "
            "10.0.0.1:9999."
        )
    text = values.execution if "execution" in values else ""
    if text.partition("(")[0].strip() not in SHARED:
        raise UsageError(
            f"--execution={text} would train the whole cohort in every process; use "
            "auto() or sharded() with several."
        )
    return True


def left_at_once(code: int) -> None:
    """Ends a process whose peers are gone: an ordinary end would wait for them."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
