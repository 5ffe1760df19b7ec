"""A run's directory: what defined it, what it measured, where it stopped.

    config.json     flags, versions, git commit      summary.json   totals and claims
    metrics.jsonl   a row for every evaluation       report.html    self-contained
    figures/        PNG                              events/        TensorBoard
    checkpoints/    orbax                            audit/         with --audit_log

Every file is written under another name and renamed, so a reader or a killed run never
sees half of one (`metrics.jsonl` grows by whole lines and is rewritten on resuming).
JSON files carry the number of their format, `FORMAT`; one of another is refused.
"""

import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "tensorflow-datasets")
SPEED_ONLY_FLAGS = frozenset(
    {"workdir", "data_dir", "raw_dir", "progress", "audit_key"}
)
"""Flags that say where things lie or how they are shown, not what a run is."""

FORMAT = 1
"""Of JSON files; raised whenever an older one would be misread."""

Json = dict[str, Any]


class RunDirectoryError(ValueError):
    """The directory cannot be used for this run; the message says why, in one line."""


class RunDirectory(NamedTuple):
    """An opened run directory.

    Attributes:
      path: the directory.
      config: what `config.json` holds.
      finished: the summary, when the run has already ended, else None.
    """

    path: Path
    config: Json
    finished: Json | None

    @property
    def metrics_path(self) -> Path:
        """The file of evaluation rows."""
        return self.path / "metrics.jsonl"

    @property
    def figures_path(self) -> Path:
        """The folder of figures."""
        return self.path / "figures"


def find_run(
    workdir: str | Path, experiment: str, flags: Mapping[str, Any]
) -> RunDirectory:
    """Looks into a directory for a run, new or to be resumed, and writes nothing.

    Args:
      workdir: the directory; it need not exist.
      experiment: the experiment's name.
      flags: every flag of the run, JSON-able values.

    Returns:
      The directory, with `finished` set when there is nothing left to do. Before
      anything is written to it, `begin_run` must have been called.

    Raises:
      RunDirectoryError: when it holds a run of another experiment, with other flags
        (named in the message) or of another format.
    """
    path = Path(workdir)
    config_path, summary_path = path / "config.json", path / "summary.json"
    if not config_path.exists():
        return RunDirectory(path, _describe(experiment, flags), None)
    config = read_json(config_path)
    if config.get("experiment") != experiment:
        raise RunDirectoryError(
            f"--workdir={workdir} holds a run of experiment "
            f"{config.get('experiment')!r}, not {experiment!r}; choose another one."
        )
    differing = _differing(config.get("flags", {}), _jsonable(flags))
    if differing:
        raise RunDirectoryError(
            f"--workdir={workdir} holds a run with other flags ({'; '.join(differing)})"
            "; choose another one or use the same flags."
        )
    finished = read_json(summary_path) if summary_path.exists() else None
    return RunDirectory(path, config, finished)


def begin_run(directory: RunDirectory) -> None:
    """Makes a directory that `find_run` found, with its `config.json`.

    Raises:
      RunDirectoryError: when it cannot be written.
    """
    path = directory.path
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise RunDirectoryError(
            f"--workdir={path} cannot be written: {error.strerror or error}."
        ) from error
    if not (path / "config.json").exists():
        write_json(path / "config.json", directory.config)


def open_run(
    workdir: str | Path, experiment: str, flags: Mapping[str, Any]
) -> RunDirectory:
    """`find_run`, then `begin_run`: for what has been built already.

    Args:
      workdir: the directory; made when it does not exist.
      experiment: the experiment's name.
      flags: every flag of the run, JSON-able values.

    Returns:
      The directory, with `finished` set when there is nothing left to do.

    Raises:
      RunDirectoryError: as those.
    """
    directory = find_run(workdir, experiment, flags)
    begin_run(directory)
    return directory


def write_rows(directory: RunDirectory, rows: Iterable[Mapping[str, object]]) -> None:
    """Replaces the rows on disk by these."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    write_text(directory.metrics_path, text)


def append_row(directory: RunDirectory, row: Mapping[str, object]) -> None:
    """Adds one row as one whole line."""
    with directory.metrics_path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def write_json(path: Path, value: Json) -> None:
    """Writes JSON with the number of its format, either wholly or not at all."""
    numbered = {"format": FORMAT, **value}
    write_text(path, json.dumps(numbered, indent=2, sort_keys=False) + "\n")


def read_json(path: Path) -> Json:
    """What `write_json` has written, without the number of its format.

    Raises:
      RunDirectoryError: when it cannot be read or is of another format.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunDirectoryError(f"{path} cannot be read: {error}.") from error
    if not isinstance(value, dict):
        raise RunDirectoryError(f"{path} does not hold a JSON object.")
    check_format(path, value.pop("format", None), FORMAT)
    return value


def check_format(
    path: Path,
    found: object,
    expected: int,
    *,
    way_out: str = "choose another --workdir",
) -> None:
    """Refuses what is of another format.

    Args:
      path: of the file or directory that is read.
      found: the number that it carries; None where it carries none.
      expected: the number of the only format that is read.
      way_out: what the user can do.

    Raises:
      RunDirectoryError: when they differ.

    >>> check_format(Path("runs/a/config.json"), 1, 1)
    """
    if found != expected or isinstance(found, bool):
        has = "none" if found is None else repr(found)
        raise RunDirectoryError(
            f"Expected format {expected} in {path}, got {has}: {way_out}."
        )


def write_text(path: Path, text: str) -> None:
    """Writes a file, either wholly or not at all."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def _describe(experiment: str, flags: Mapping[str, Any]) -> Json:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "experiment": experiment,
        "flags": _jsonable(flags),
        "seed": flags.get("seed"),
        "versions": versions,
        "git_commit": _git_commit(),
    }


def _jsonable(flags: Mapping[str, Any]) -> Json:
    return json.loads(json.dumps(dict(flags)))


def _differing(old: Json, new: Json) -> list[str]:
    names = sorted((set(old) | set(new)) - SPEED_ONLY_FLAGS)
    return [
        f"--{name}: {old.get(name)!r} there, {new.get(name)!r} now"
        for name in names
        if old.get(name) != new.get(name)
    ]


def _git_commit() -> str | None:
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
