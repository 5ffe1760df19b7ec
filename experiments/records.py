"""Recorded commands by name: one command makes each table of a README again.

    python -m experiments.records                       # their names
    python -m experiments.records frontier/mnist        # one
    python -m experiments.records frontier              # all of an experiment
    python -m experiments.records frontier/mnist --seed=1

A record is a flag file, `experiments/EXPERIMENT/presets/NAME.flags`, whose first line
names its command. It runs in `runs/records/EXPERIMENT/NAME`, or in `EXPERIMENT/NAME`
below `--folder`; a finished run is not repeated and a stopped one goes on. Flags
after the name are added to those of the file.
"""

import difflib
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

FOLDER = Path("runs/records")
_COMMAND = re.compile(r"# python -m (experiments\.[a-z_.]+)")


class Record(NamedTuple):
    """A recorded command.

    Attributes:
      name: `EXPERIMENT/NAME`.
      module: what is run.
      flags: its flag file.
    """

    name: str
    module: str
    flags: Path


def all_records() -> list[Record]:
    """Every record, by name.

    Raises:
      ValueError: for a flag file that does not begin with its command.
    """
    found = []
    for path in sorted(Path(__file__).parent.glob("*/presets/*.flags")):
        first, _, _ = path.read_text(encoding="utf-8").partition("\n")
        command = _COMMAND.fullmatch(first)
        if command is None:
            raise ValueError(f"Expected {path} to begin with '# python -m ...'.")
        name = f"{path.parents[1].name}/{path.stem}"
        found.append(Record(name, command[1], path))
    return found


def chosen(name: str) -> list[Record]:
    """The record of a name, or all of an experiment.

    Raises:
      ValueError: for a name of nothing.

    >>> [record.module for record in chosen("frontier/mnist")]
    ['experiments.frontier']
    """
    records = all_records()
    found = [x for x in records if name in (x.name, x.name.partition("/")[0])]
    if not found:
        names = [x.name for x in records]
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
        raise ValueError(f"There is no record {name!r}; did you mean {near[0]!r}?")
    return found


def main(argv: Sequence[str]) -> int:
    """Runs what is named, one after another; 0 when all came to their end."""
    arguments, folder = list(argv), FOLDER
    for given in [x for x in arguments if x.startswith("--folder=")]:
        arguments.remove(given)
        folder = Path(given.partition("=")[2])
    if not arguments or arguments[0].startswith("-"):
        for record in all_records():
            print(f"{record.name:44} python -m {record.module}")
        return 0
    try:
        records = chosen(arguments[0])
    except ValueError as error:
        print(f"records: {error}", file=sys.stderr)
        return 2
    failed = 0
    for record in records:
        command = [
            *(sys.executable, "-m", record.module),
            f"--workdir={folder / record.name}",
            f"--flagfile={record.flags}",
            *arguments[1:],
        ]
        print("==", *command[1:], flush=True)
        failed = failed or subprocess.run(command, check=False).returncode
    return failed


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
