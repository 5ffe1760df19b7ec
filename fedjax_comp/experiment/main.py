"""The way into every experiment: flags in; for a mistake one line and exit code 2."""

import contextlib
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
from absl import flags

from fedjax_comp.distributed import FirstEnded, FirstFailed, PeerLost
from fedjax_comp.experiment.conditions import check_conditions
from fedjax_comp.experiment.errors import RunFailed, UsageError
from fedjax_comp.experiment.expressions import check_expressions, names_help
from fedjax_comp.experiment.figures import tell_of_missing
from fedjax_comp.experiment.own_names import offer_own
from fedjax_comp.experiment.processes import joined, left_at_once
from fedjax_comp.extras import MissingExtra
from fedjax_comp.pipes import pipe_may_close
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
      SystemExit: with code 2 after a mistake and where an extra is missing, 1 after a
        run whose model has learned nothing and where a file could not be read or
        written, 130 after an interrupt, 143 after SIGTERM.
    """
    arguments = list(sys.argv if argv is None else argv)
    with pipe_may_close():
        _run(name, values, body, arguments)


def _run(
    name: str,
    values: flags.FlagValues,
    body: Callable[[flags.FlagValues], None],
    arguments: Sequence[str],
) -> None:
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
        print(names_help(values))
        return
    try:
        if values.workdir is None:
            raise UsageError("--workdir=DIR is required.")
        _expand_paths(values)
        if "execution" in values:
            use_host_cores()  # before anything is put on a device
        with joined(name, values):
            offer_own(values)
            check_numbers(values)
            check_expressions(values)
            check_conditions(values)
            tell_of_missing()
            body(values)
    except PeerLost as error:
        print(f"{name}: {error}", file=sys.stderr)
        left_at_once(1)
    except FirstEnded as error:
        print(f"{name}: {error}", file=sys.stderr)
        raise
    except FirstFailed as error:
        print(f"{name}: the first process failed: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except RunFailed as error:
        print(f"{name}: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except Terminated as error:
        print(f"{name}: {error}", file=sys.stderr)
        raise
    except MissingExtra as error:
        if os.environ.get("FEDJAX_COMP_DEBUG"):
            raise
        _exit_with(name, error)
    except ValueError as error:
        if os.environ.get("FEDJAX_COMP_DEBUG"):
            raise
        # What the package raises under a name of its own is a user's mistake; any other
        # may be a fault of the program, and its traceback is wanted.
        own = type(error).__module__.startswith("fedjax_comp.")
        _exit_with(name, error, "" if own else SHOW)
    except OSError as error:
        if isinstance(error, BrokenPipeError) or os.environ.get("FEDJAX_COMP_DEBUG"):
            raise
        where = "" if error.filename is None else f" {error.filename}:"
        print(
            f"{name}:{where} {error.strerror or error}; nothing that was finished is "
            f"lost, the same command goes on at the last checkpoint.{SHOW}",
            file=sys.stderr,
        )
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print(
            f"\n{name}: interrupted; the same command resumes at the last checkpoint.",
            file=sys.stderr,
        )
        raise SystemExit(130) from None


def check_numbers(values: flags.FlagValues) -> None:
    """Refuses flags that are no number: they pass every bound.

    Raises:
      UsageError: for NaN.
    """
    for name in values:
        given = values[name].value
        for value in given if isinstance(given, list) else [given]:
            if isinstance(value, float) and math.isnan(value):
                raise UsageError(f"--{name}={value}: expected a number.")


def use_host_cores() -> None:
    """Makes each CPU core a device, so that `auto()` spreads clients over them.

    Does nothing on accelerators, and nothing when devices are already in use: their
    number is fixed by then.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", cores)


def _exit_with(name: str, error: Exception, how: str = "") -> None:
    line = " ".join(f"{error}{how}".split())
    print(f"{name}: {line}", file=sys.stderr)
    raise SystemExit(2) from None


SHOW = " (FEDJAX_COMP_DEBUG=1 shows where.)"

PATHS = ("workdir", "data_dir", "raw_dir", "audit_key", "costs")


def _expand_paths(values: flags.FlagValues) -> None:
    """Refuses empty paths, and puts the home directory for `~`."""
    for flag in PATHS:
        text = values[flag].value if flag in values else None
        if text is None:
            continue
        if not text.strip():
            raise UsageError(f"--{flag}={text} is empty; leave it out or name a path.")
        try:
            values[flag].value = str(Path(text).expanduser())
        except RuntimeError:
            raise UsageError(
                f"--{flag}={text}: no home directory is known; write the path in full."
            ) from None
