"""Runs what a run directory describes once more, in another directory, with a log.

    python -m fedjax_comp.experiment.again DIR --into=NEW

The module that the experiment's name says (`experiments.fed_avg.run`,
`experiments.split_learning.vertical`) must have `build_problem`, and `define_run` or
`define` for its flags, as all of them do. Each run of a comparison is described by its
own directory, like any other run.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedjax_comp.experiment.errors import RunFailed, UsageError
from fedjax_comp.experiment.finish import execute
from fedjax_comp.experiment.main import use_host_cores
from fedjax_comp.experiment.own_names import offer_own
from fedjax_comp.network.kept_costs import COSTS
from fedjax_comp.run_directory import read_json

NOT_REPEATED = {"audit_key": None, "checkpoint_every": 0, "progress": False}
"""Flags that a repetition sets itself: it has its own key and is not resumed."""


def run_again(
    run: Path, into: Path, *, module: str | None = None, **places: str | None
) -> None:
    """Runs a run directory's configuration again.

    Args:
      run: the run directory; nothing in it is changed.
      into: the new one.
      module: what builds its problem; by the experiment's name when None.
      **places: values of flags such as `data_dir`, where data lies elsewhere now.

    Raises:
      ValueError: when there is no such module, or it has other flags by now.
    """
    config = read_json(run / "config.json")
    name = str(config.get("experiment"))
    package, _, part = name.partition(".")
    path = module or f"experiments.{package}.{part or 'run'}"
    try:
        experiment = importlib.import_module(path)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"There is no module {path} here ({error}); run this where the experiment "
            "lies, or name its module."
        ) from error
    if not hasattr(experiment, "build_problem"):
        raise UsageError(
            f"{run} cannot be repeated: {path} has no build_problem, since its flags "
            "alone do not say what a run begins from."
        )
    define = getattr(experiment, "define_run", None) or experiment.define
    values = define()
    values([name])
    given: dict[str, Any] = {
        **config.get("flags", {}),
        **NOT_REPEATED,
        **{flag: place for flag, place in places.items() if place is not None},
        "workdir": str(into),
        "audit_log": True,
    }
    if "costs" in values and (run / COSTS).exists():
        # What compressors cost was measured: another measurement is another clock.
        given["costs"] = str(run / COSTS)
    for flag, value in given.items():
        if flag in values:
            values[flag].value = value
        elif value is not None:
            raise UsageError(f"--{flag} of {run} is not a flag of {path} here.")
    offer_own(values)
    use_host_cores()
    execute(name, values, lambda: experiment.build_problem(values), lambda summary: [])


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns 0, 1 for a run that failed, or 2 for a mistake in it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="the run directory")
    parser.add_argument("--into", type=Path, required=True, help="the new one")
    parser.add_argument("--module", help="what builds the problem")
    parser.add_argument("--data_dir", help="where prepared data lies now")
    parser.add_argument("--raw_dir", help="where raw files lie now")
    given = parser.parse_args(argv)
    places = {"data_dir": given.data_dir, "raw_dir": given.raw_dir}
    try:
        run_again(given.run, given.into, module=given.module, **places)
    except (ValueError, RunFailed) as error:
        print(f"again: {' '.join(str(error).split())}", file=sys.stderr)
        return 1 if isinstance(error, RunFailed) else 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
