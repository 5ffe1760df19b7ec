"""The command of a folder that holds several commands: it prints their names."""

import sys
from pathlib import Path
from typing import NoReturn


def commands_of(folder: Path) -> list[str]:
    """The modules of a folder of experiments that `python -m` runs.

    >>> commands_of(Path(__file__).parent / "flower")
    ['experiments.flower.loopback']
    """
    runs = '\nif __name__ == "__main__":'
    return [
        f"experiments.{folder.name}.{path.stem}"
        for path in sorted(folder.glob("*.py"))
        if path.stem != "__main__" and runs in path.read_text(encoding="utf-8")
    ]


def name_them(folder: Path) -> NoReturn:
    """Ends the process with one line that names the commands of a folder, and code 2.

    Raises:
      SystemExit: always.
    """
    print(
        f"experiments.{folder.name} is a set of commands; run python -m with one of "
        f"{', '.join(commands_of(folder))}.",
        file=sys.stderr,
    )
    raise SystemExit(2)
