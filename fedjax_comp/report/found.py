"""Finds the runs below directories by the files they left; nothing is changed."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from fedjax_comp import strict_json
from fedjax_comp.report.means import is_number
from fedjax_comp.run_directory import (
    Json,
    RunDirectoryError,
    read_json,
)
from fedjax_comp.strict_json import Shape
from fedjax_comp.wording import one_line

_CONFIG: Mapping[str, Shape] = {"experiment": str, "flags": dict}
_PARTS = frozenset({"audit", "checkpoints", "checkpoints-rows", "events", "figures"})
"""Folders of a run in which there is no other run."""
_TUNING = "tuning"
"""The folder of a comparison with the runs by which a rate was chosen: no results."""


class FoundRun(NamedTuple):
    """A run as its directory has it.

    Attributes:
      path: the directory.
      below: the directory it was found below, as the user wrote it.
      experiment: the experiment's name.
      flags: every flag of the run.
      seed: its seed; None where it has none.
      commit: the git commit it was started at; None where that is not known.
      rows: its evaluations, with `total_bytes`, what was sent both ways.
      state: "" when it has finished; else what has become of it, in words.
    """

    path: Path
    below: str
    experiment: str
    flags: Json
    seed: int | None
    commit: str | None
    rows: Sequence[Json]
    state: str


class Found(NamedTuple):
    """What lies below directories.

    Attributes:
      runs: in the order of the directories; below each by name, or in the order of
        the comparison that they belong to.
      passed: directories of a run without an evaluation, or of measurements without
        rounds: there is nothing to compare.
      damaged: what cannot be read, in words that name the file; the run is left out.
    """

    runs: Sequence[FoundRun]
    passed: Sequence[Path]
    damaged: Sequence[str] = ()


def find_runs(directories: Iterable[str | Path]) -> Found:
    """Looks for `config.json` beside `metrics.jsonl`, at any depth.

    Runs by which a comparison chose a rate are left out: they are of another seed, and
    were evaluated on what was held out.

    Args:
      directories: where to look; a run below two of them is found once.

    Returns:
      The runs, at least one, and what was left out because it is damaged.

    Raises:
      RunDirectoryError: when there is no run below a directory, or none that can be
        read; the message names the file.
    """
    runs: dict[Path, FoundRun] = {}
    passed: dict[Path, Path] = {}
    damaged: dict[Path, str] = {}
    for below in directories:
        some = False
        for folder, names, files in os.walk(below):
            path = Path(folder)
            names[:] = sorted(name for name in names if name not in _PARTS)
            if "config.json" not in files:
                continue
            if _TUNING in names and not (path / _TUNING / "config.json").exists():
                names.remove(_TUNING)
            try:
                if "metrics.jsonl" not in files and "summary.json" in files:
                    names.sort(key=_place_among(read_json(path / "summary.json")))
                run = _read(path, str(below), files)
            except RunDirectoryError as error:
                damaged[path.resolve()] = str(error)
                some = True
                continue
            if run is not None:
                runs.setdefault(path.resolve(), run)
                some = True
            elif not _is_comparison(path, names):
                passed[path.resolve()] = path
        if not some:
            raise RunDirectoryError(
                f"no run below {str(below)!r}: expected a directory with config.json "
                "and evaluations in metrics.jsonl."
            )
    if damaged and not runs:
        raise RunDirectoryError(next(iter(damaged.values())))
    return Found(list(runs.values()), list(passed.values()), list(damaged.values()))


def _is_comparison(path: Path, names: Sequence[str]) -> bool:
    """Whether the runs of a directory are those of its sub-directories."""
    return any((path / name / "config.json").exists() for name in names)


def _place_among(summary: Json) -> Callable[[str], int]:
    """Where a sub-directory's run stands in its comparison; the unknown come last."""
    rows = summary.get("runs")
    known = (
        [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    )
    places = {str(row.get("name")): place for place, row in enumerate(known)}
    return lambda name: places.get(name, len(places))


def _read(path: Path, below: str, files: Sequence[str]) -> FoundRun | None:
    """The run of a directory; None where nothing was evaluated round by round."""
    config = read_json(path / "config.json", _CONFIG)
    if "metrics.jsonl" not in files:
        return None
    rows = _read_rows(path / "metrics.jsonl")
    if not rows:
        return None
    state = "not finished"
    rounds = config["flags"].get("num_rounds")
    if is_number(rounds):
        state += f": round {rows[-1]['round']:,} of {rounds:,}"
    if "summary.json" in files:
        failures = read_json(path / "summary.json").get("failures")
        state = (
            f"failed: {failures[0]}"
            if isinstance(failures, list | tuple) and (failures)
            else ""
        )
    seed, commit = config.get("seed"), config.get("git_commit")
    return FoundRun(
        path=path,
        below=below,
        experiment=config["experiment"],
        flags=config["flags"],
        seed=seed if isinstance(seed, int) else None,
        commit=commit if isinstance(commit, str) else None,
        rows=rows,
        state=state,
    )


def _read_rows(path: Path) -> list[Json]:
    """Evaluations in rounds; none where the lines are measurements with names."""
    try:
        lines = strict_json.parse_lines(path.read_text(encoding="utf-8"), {})
        if lines and "round" not in lines[0] and "name" in lines[0]:
            return []
        rows = [strict_json.check_fields(line, {"round": int}) for line in lines]
    except (OSError, ValueError) as error:
        raise RunDirectoryError(f"{path} cannot be read: {one_line(error)}.") from error
    rows = [strict_json.finite(row) for row in rows]
    return [{**row, "total_bytes": _total(row)} for row in rows]


def _total(row: Json) -> int | float | None:
    up, down = row.get("uplink_bytes"), row.get("downlink_bytes")
    return up + down if is_number(up) and is_number(down) else None
