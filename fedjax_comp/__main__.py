"""`fedjax-comp COMMAND ...` or `python -m fedjax_comp COMMAND ...`.

    report DIR...           puts finished runs on one page    (fedjax_comp.report)
    audit verify DIR ...    checks a run's log of messages    (fedjax_comp.audit)
    run NAME --workdir=DIR  an experiment of the repository   (experiments.NAME)
    records [NAME]          its recorded commands             (experiments.records)

`COMMAND --help` has the flags of each. The experiments are no part of the package:
`run` and `records` are called in a copy of the repository.
"""

import importlib.util
import os
import runpy
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NoReturn

import fedjax_comp

NAME = "fedjax-comp"
_COMMANDS = ("report", "audit", "run", "records")


def main(argv: Sequence[str] | None = None) -> None:
    """Hands the rest of the command line to the module that the command names.

    Args:
      argv: the command line; `sys.argv` when None.

    Raises:
      SystemExit: with code 2 and one line for a command or an experiment that does not
        exist; else with the command's own code.

    >>> main(["fedjax-comp", "--version"])
    0.1.0
    """
    given = list(sys.argv if argv is None else argv)[1:]
    command, rest = (given[0], given[1:]) if given else ("--help", [])
    if command in ("--help", "-h"):
        print((__doc__ or "").strip())
    elif command == "--version":
        print(fedjax_comp.__version__)
    elif command == "report":
        import_module("fedjax_comp.report.__main__").main([NAME, *rest])
    elif command == "audit":
        raise SystemExit(import_module("fedjax_comp.audit.command").main(rest))
    elif command == "records":
        _experiments()
        _run("experiments.records", rest)
    elif command == "run" and rest[:1] in (["--help"], ["-h"]):
        print(f"{NAME} run NAME --workdir=DIR [flags]; NAME is one of")
        print(", ".join(_names(_experiments())))
    elif command == "run":
        _run(_experiment(rest[0] if rest else ""), rest[1:])
    else:
        _stop(f"there is no command {command!r} but {', '.join(_COMMANDS)}.")


def _experiment(name: str) -> str:
    """The module of an experiment, `fed_avg` or `fed_avg.compare`."""
    folder = _experiments()
    names = _names(folder)
    parts = name.split(".")
    file = folder.joinpath(*parts).with_suffix(".py")
    known = parts[0] in names and all(part.isidentifier() for part in parts)
    if not known or (len(parts) > 1 and not file.is_file()):
        _stop(f"there is no experiment {name!r} but {', '.join(names)}.")
    return f"experiments.{name}"


def _names(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.glob("*/__main__.py"))


def _experiments() -> Path:
    """Their folder."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    found = importlib.util.find_spec("experiments")
    if found is None or not found.submodule_search_locations:
        _stop("the experiments are not here; call it in a copy of the repository.")
    return Path(found.submodule_search_locations[0])


def _run(module: str, rest: Sequence[str]) -> None:
    sys.argv = [module, *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _stop(line: str) -> NoReturn:
    print(f"{NAME}: {line}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    main()
