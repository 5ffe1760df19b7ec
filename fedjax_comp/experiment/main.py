"""The way into every experiment: flags in; for a mistake one line and exit code 2."""

import contextlib
import os
import sys
from collections.abc import Callable, Sequence

import jax
from absl import flags

from fedjax_comp.experiment.conditions import check_conditions
from fedjax_comp.experiment.errors import RunFailed, UsageError
from fedjax_comp.experiment.expressions import check_expressions
from fedjax_comp.process import Terminated

__all__ = ["UsageError", "run_main", "use_host_cores"]


def run_main(
    name: str,
    values: flags.FlagValues,
    body: Callable[[flags.FlagValues], None],
    argv: Sequence[str] | None = None,
) -> None:
    """Parses flags and runs an experiment.

    Whatever one flag says by itself is built first, so that a mistake in it is told
    before the experiment has written anything.

    Args:
      name: the experiment's name, for messages.
      values: its flags, not yet parsed.
      body: what it does; a `ValueError` it raises is a user's mistake.
      argv: the command line; `sys.argv` when None.

    Raises:
      SystemExit: with code 2 after a mistake, 1 after a run whose model has learned
        nothing, 130 after an interrupt, 143 after SIGTERM.
    """
    arguments = list(sys.argv if argv is None else argv)
    try:
        positional = values([name, *arguments[1:]])[1:]
        if positional:
            raise UsageError(
                f"unexpected argument {positional[0]!r}; write flags as --name=value."
            )
    except (flags.Error, UsageError) as error:
        _exit_with(name, error)
    if values.help:
        print(f"{name} --workdir=DIR [flags]\n")
        print(values.get_help())
        return
    try:
        if values.workdir is None:
            raise UsageError("--workdir=DIR is required.")
        if "execution" in values:
            use_host_cores()  # before anything is put on a device
        check_expressions(values)
        check_conditions(values)
        body(values)
    except RunFailed as error:
        print(f"{name}: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except Terminated as error:
        print(f"{name}: {error}", file=sys.stderr)
        raise
    except ValueError as error:
        if os.environ.get("FEDJAX_COMP_DEBUG"):
            raise
        _exit_with(name, error)
    except KeyboardInterrupt:
        print(
            f"\n{name}: interrupted; the same command resumes at the last checkpoint.",
            file=sys.stderr,
        )
        raise SystemExit(130) from None


def use_host_cores() -> None:
    """Makes each CPU core a device, so that `auto()` spreads clients over them.

    Does nothing on accelerators, and nothing when devices are already in use: their
    number is fixed by then.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", cores)


def _exit_with(name: str, error: Exception) -> None:
    line = " ".join(str(error).split())
    print(f"{name}: {line}", file=sys.stderr)
    raise SystemExit(2) from None
