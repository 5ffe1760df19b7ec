"""`python -m fedjax_comp.report DIR... --out=report.html`: any runs, side by side."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import flags

from fedjax_comp.pipes import pipe_may_close
from fedjax_comp.report.compare_page import write_comparison
from fedjax_comp.report.found import Found, find_runs
from fedjax_comp.report.groups import Group, Grouping, group_runs
from fedjax_comp.run_directory import RunDirectoryError
from fedjax_comp.wording import one_line

NAME = "fedjax_comp.report"


class UsageError(ValueError):
    """A mistake in the command, in one line."""


def define() -> flags.FlagValues:
    """The command's flags."""
    values = flags.FlagValues()
    flags.DEFINE_string("out", "report.html", "The page.", flag_values=values)
    flags.DEFINE_string(
        "reference",
        None,
        "Part of the label, or of a directory, of the group that others are held "
        "against; the first one found when left out.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "target_accuracy",
        None,
        "Test accuracy that bytes are counted to, such as 0.9.",
        flag_values=values,
        lower_bound=0.0,
        upper_bound=1.0,
    )
    flags.DEFINE_boolean("help", False, "Show the flags and exit.", flag_values=values)
    return values


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the page, and says where it is and which runs are not in it.

    Args:
      argv: the command line; `sys.argv` when None.

    Raises:
      SystemExit: with code 2 after a mistake, told in one line.
    """
    with pipe_may_close():
        _run(list(sys.argv if argv is None else argv))


def _run(arguments: Sequence[str]) -> None:
    values = define()
    try:
        directories = values([NAME, *arguments[1:]])[1:]
        if values.help:
            print(f"python -m {NAME} DIR... [flags]\n\n{values.get_help()}")
            return
        path = _write(directories, values)
    except (flags.Error, UsageError, RunDirectoryError) as error:
        print(f"{NAME}: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
    print(f"report: {path}")


def _write(directories: Sequence[str], values: flags.FlagValues) -> Path:
    if not directories:
        raise UsageError(
            "no directory to look into; write the directories of runs behind the "
            "command."
        )
    out = _checked(Path(values.out).expanduser())
    found = find_runs(directories)
    grouping = group_runs(found.runs)
    _print_found(found, grouping)
    try:
        return write_comparison(
            out,
            grouping,
            found,
            reference=_reference(grouping, values.reference),
            target_accuracy=values.target_accuracy,
        )
    except OSError as error:
        raise UsageError(
            f"--out={values.out} cannot be written: {one_line(error)}."
        ) from None


def _checked(out: Path) -> Path:
    if out.is_dir():
        raise UsageError(f"--out={out} is a directory; name a file.")
    if not out.parent.is_dir():
        raise UsageError(f"--out={out}: there is no directory {str(out.parent)!r}.")
    if (out.parent / "config.json").exists():
        raise UsageError(
            f"--out={out} is in the directory of a run, which is left as it is; name "
            "another place."
        )
    return out


def _reference(grouping: Grouping, text: str | None) -> Group:
    if text is None:
        return grouping.groups[0]
    ways: tuple[Callable[[Group], bool], ...] = (
        lambda group: group.label == text,
        lambda group: any(run.path.name == text for run in group.runs),
        lambda group: (
            text in group.label or any(text in str(r.path) for r in group.runs)
        ),
    )
    each = ([group for group in grouping.groups if way(group)] for way in ways)
    found = next(filter(None, each), [])
    if len(found) != 1:
        number = f"{len(found)} groups" if found else "no group"
        labels = "; ".join(group.label for group in found or grouping.groups)
        raise UsageError(f"--reference={text} names {number}; there are: {labels}.")
    return found[0]


def _print_found(found: Found, grouping: Grouping) -> None:
    unfinished = sum(bool(run.state) for run in found.runs)
    print(
        f"{len(found.runs)} runs in {len(grouping.groups)} groups"
        + f", {unfinished} of them not finished or failed" * bool(unfinished)
    )
    for why in found.damaged:
        print(f"{NAME}: left out: {why}", file=sys.stderr)


if __name__ == "__main__":
    main()
