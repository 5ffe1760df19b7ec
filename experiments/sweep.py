r"""Every combination of some flags' values, each in a run directory of its own.

    python -m experiments.sweep --workdir=DIR --experiment=fed_avg \
        --grid='client_optimizer: sgd(0.03) | sgd(0.1)' \
        --grid='uplink: identity() | qsgd(4)' --num_seeds=3 -- --num_rounds=50

Flags after `--` are given to every run. The run directories keep the state: a finished
run is not repeated, a stopped one goes on, and more values may be added
later. Mistakes in flags are found before the first run. At the end `sweep.csv` has a
line for each run, and `report.html` shows how the runs differ (`fedjax_comp.report`).
"""

import csv
import importlib
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from absl import flags

from fedjax_comp.experiment.errors import UsageError
from fedjax_comp.experiment.expressions import check_expressions
from fedjax_comp.experiment.rates import define_rates
from fedjax_comp.experiment.seeds import define_seeds
from fedjax_comp.report.__main__ import main as write_report

NAME = "experiments.sweep"
MEASURED = ("test_accuracy", "best_test_accuracy", "test_loss", "rounds", "total_bytes")
"""Columns of `sweep.csv` behind the flags."""


class Run(NamedTuple):
    """One combination with one seed.

    Attributes:
      flags: flag to value, those that are swept.
      seed: the value of `--seed`.
      path: its run directory.
    """

    flags: Mapping[str, str]
    seed: int
    path: Path


def define() -> flags.FlagValues:
    """The command's flags."""
    values = flags.FlagValues()
    text, whole = flags.DEFINE_string, flags.DEFINE_integer
    text("workdir", None, "Folder of the run directories.", flag_values=values)
    text(
        "experiment",
        "fed_avg",
        "What is run: python -m experiments.NAME.",
        flag_values=values,
    )
    flags.DEFINE_multi_string(
        "grid",
        [],
        "'FLAG: VALUE | VALUE ...'; of several all combinations are run.",
        flag_values=values,
    )
    whole("seed", 0, "The first seed.", flag_values=values, lower_bound=0)
    whole(
        "num_seeds", 1, "Seeds of every combination.", flag_values=values, lower_bound=1
    )
    flags.DEFINE_boolean("help", False, "Show the flags and exit.", flag_values=values)
    return values


def main(argv: Sequence[str]) -> int:
    """Runs what is left of a sweep; 0 when all of it has come to its end."""
    own, others = _split(argv)
    values = define()
    try:
        left = values([NAME, *own])[1:]
        if values.help:
            print(f"python -m {NAME} --workdir=DIR --grid=... -- FLAGS OF EVERY RUN\n")
            print(values.get_help())
            return 0
        if left:
            raise UsageError(
                f"unexpected argument {left[0]!r}; what every run is given stands "
                "behind --."
            )
        runs = planned(values)
        check(values.experiment, runs, others)
    except (flags.Error, ValueError) as error:
        print(f"{NAME}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    failed = []
    for number, run in enumerate(runs, 1):
        print(f"== {number}/{len(runs)} {run.path}", flush=True)
        status = subprocess.run(
            _command(values.experiment, run, others), check=False
        ).returncode
        if status in (-2, 130, 143):
            print(f"{NAME}: stopped; the same command goes on.", file=sys.stderr)
            return status if status > 0 else 130
        if status:
            failed.append(run)
    folder = Path(values.workdir)
    write_table(folder / "sweep.csv", runs)
    if len(failed) < len(runs):
        done = [str(run.path) for run in runs if run not in failed]
        write_report([NAME, *done, f"--out={folder / 'report.html'}"])
    for run in failed:
        print(f"{NAME}: {run.path} has failed.", file=sys.stderr)
    return 1 if failed else 0


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    place = list(argv).index("--") if "--" in argv else len(argv)
    return list(argv[:place]), list(argv[place + 1 :])


def parse_grid(texts: Sequence[str]) -> dict[str, list[str]]:
    """Flag to its values.

    Raises:
      UsageError: for what has no values, or a flag that is there twice.

    >>> parse_grid(["uplink: identity() | qsgd(4)", "seed_of: 3"])
    {'uplink': ['identity()', 'qsgd(4)'], 'seed_of': ['3']}
    """
    found: dict[str, list[str]] = {}
    for text in texts:
        name, colon, rest = text.partition(":")
        name, each = name.strip().removeprefix("--"), rest.split("|")
        options = [value.strip() for value in each]
        if not (colon and name and all(options)):
            raise UsageError(f"--grid={text!r}: expected 'FLAG: VALUE | VALUE ...'.")
        if name in found or len(set(options)) < len(options):
            raise UsageError(f"--grid={text!r}: a flag or a value is there twice.")
        if name in ("seed", "workdir"):
            raise UsageError(
                f"--grid={text!r}: --workdir and --seed are the sweep's own; "
                "--num_seeds asks for several."
            )
        found[name] = options
    if not found:
        raise UsageError("--grid='FLAG: VALUE | VALUE ...' is missing.")
    return found


def planned(values: flags.FlagValues) -> list[Run]:
    """Every run of a sweep: combinations first, then seeds.

    Raises:
      UsageError: for a grid or a folder that cannot be used.
    """
    if values.workdir is None:
        raise UsageError("--workdir=DIR is required.")
    folder = Path(values.workdir).expanduser()
    if (folder / "config.json").exists():
        raise UsageError(f"--workdir={folder} is the directory of a run; name another.")
    grid = parse_grid(values.grid)
    seeds = range(values.seed, values.seed + values.num_seeds)
    runs = [
        Run(chosen, seed, folder / _folder_name(chosen) / f"seed-{seed}")
        for seed in seeds
        for chosen in _combinations(grid)
    ]
    paths = [run.path for run in runs]
    for path in paths:
        if paths.count(path) > 1:
            raise UsageError(f"--grid: two combinations would be in {path}.")
    return runs


def _combinations(grid: Mapping[str, Sequence[str]]) -> Iterator[dict[str, str]]:
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def _folder_name(chosen: Mapping[str, str]) -> str:
    """A name for the file system: what could not be in one is left out."""
    text = ",".join(f"{name}={value}" for name, value in chosen.items())
    return re.sub(r"[^\w.,=()+-]+", "", text)[:200]


def check(experiment: str, runs: Sequence[Run], others: Sequence[str]) -> None:
    """Parses the flags of every run, and builds what each says.

    Raises:
      UsageError: for an experiment that is none, or a flag of the grid that is also
        given to every run.
      absl.flags.Error: for a flag that it does not have.
      ValueError: for an expression that describes nothing.
    """
    make = _flags_of(experiment)
    given = make()
    given([NAME, *others])
    for name in runs[0].flags:
        if name in given and given[name].present:
            raise UsageError(f"--{name} is of the --grid: leave it out behind --.")
    for run in runs:
        values = make()
        parsed = values([NAME, *_arguments(run, others)])[1:]
        if parsed:
            raise UsageError(f"unexpected argument {parsed[0]!r} behind --.")
        check_expressions(values)


def _flags_of(experiment: str) -> Callable[[], flags.FlagValues]:
    """What makes the flags of an experiment's command, not yet parsed."""
    try:
        module = importlib.import_module(f"experiments.{experiment}.flags")
        command = importlib.import_module(f"experiments.{experiment}.run")
    except ModuleNotFoundError:
        folders = Path(__file__).parent.glob("*/flags.py")
        names = sorted(path.parent.name for path in folders)
        raise UsageError(
            f"--experiment={experiment} is none of {', '.join(names)}."
        ) from None

    def make() -> flags.FlagValues:
        values: flags.FlagValues = module.define()
        if hasattr(command, "COMPARISON"):
            define_seeds(values)
            define_rates(values, command.COMPARISON.tuning)
        return values

    return make


def _arguments(run: Run, others: Sequence[str]) -> list[str]:
    swept = [f"--{name}={value}" for name, value in run.flags.items()]
    return [f"--workdir={run.path}", *others, *swept, f"--seed={run.seed}"]


def _command(experiment: str, run: Run, others: Sequence[str]) -> list[str]:
    module = f"experiments.{experiment}"
    return [sys.executable, "-m", module, *_arguments(run, others)]


def write_table(path: Path, runs: Sequence[Run]) -> Path:
    """Writes a line a run: its flags, its seed, and `MEASURED`, empty where unknown."""
    swept = list(dict.fromkeys(name for run in runs for name in run.flags))
    with path.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow([*swept, "seed", *MEASURED])
        for run in runs:
            summary = run.path / "summary.json"
            found = json.loads(summary.read_text()) if summary.is_file() else {}
            lines.writerow(
                [
                    *(run.flags.get(name) for name in swept),
                    run.seed,
                    *(found.get(name) for name in MEASURED),
                ]
            )
    return path


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
