"""A run's directory: what defined it, what it measured, where it stopped.

    config.json     flags, versions, git commit      summary.json   totals and claims
    metrics.jsonl   a row for every evaluation       report.html    self-contained
    figures/        PNG                              events/        TensorBoard
    checkpoints/    orbax                            audit/         with --audit_log
    starts.jsonl    versions, devices at each start  .lock          one process only
    clients.rows    clients' states, with --client_store=disk; clients-I-of-P.rows of
                    process I of P
    checkpoints-rows/   clients' states in the checkpoints of several processes

Every file is written under another name and renamed, so a reader or a killed run never
sees half of one (`metrics.jsonl` grows by whole lines and is cut back on resuming).
JSON files carry the number of their format, `FORMAT`; any other format is refused.
"""

import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fedjax_comp import strict_json
from fedjax_comp.lock import Lock, Locked, hold
from fedjax_comp.strict_json import Shape
from fedjax_comp.wording import MOST_CHARACTERS, one_line

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "tensorflow-datasets")
SPEED_ONLY_FLAGS = frozenset(
    {
        "workdir",
        "data_dir",
        "raw_dir",
        "progress",
        "audit_key",
        "coordinator_address",
        "num_processes",
        "process_id",
    }
)
"""Flags that say where things lie, how they are shown or which processes do the work,
not what a run is."""

RESULTS = ("metrics.jsonl", "summary.json", "checkpoints/*")
"""What must not be taken for another run's."""

AGAIN = "delete it; the command of the run makes it again"
"""The way out for a file without which a run is still whole."""

FORMAT = 1
"""Of JSON files; raised whenever an older one would be misread."""

Json = dict[str, Any]

_CONFIG: Mapping[str, Shape] = {
    "experiment": str,
    "flags": dict,
    "versions": dict,
    "git_commit": (str, type(None)),
}


class RunDirectoryError(ValueError):
    """The directory cannot be used for this run; the message says why, in one line."""


class RunDirectory(NamedTuple):
    """An opened run directory.

    Attributes:
      path: the directory.
      config: what `config.json` holds.
      finished: the summary, when the run has already ended, else None.
      grown: whether `config` asks for more than the run on disk (such as more rounds),
        and is not written yet.
      lock: what keeps other processes out, once `begin_run` has been called.
    """

    path: Path
    config: Json
    finished: Json | None
    grown: bool = False
    lock: Lock | None = None

    @property
    def metrics_path(self) -> Path:
        """The file of evaluation rows."""
        return self.path / "metrics.jsonl"

    @property
    def is_writable(self) -> bool:
        """Whether files can be made in it; it must exist."""
        return os.access(self.path, os.W_OK)

    @property
    def figures_path(self) -> Path:
        """The folder of figures."""
        return self.path / "figures"


def find_run(
    workdir: str | Path,
    experiment: str,
    flags: Mapping[str, Any],
    *,
    growing: Collection[str] = (),
) -> RunDirectory:
    """Finds the run of a directory, to begin or to resume it, and writes nothing.

    Args:
      workdir: the directory; it need not exist.
      experiment: the experiment's name.
      flags: every flag of the run, JSON-able values.
      growing: flags that may be larger than in the run on disk, which then goes on from
        where it had ended.

    Returns:
      The directory, with `finished` set when there is nothing left to do. Before
      anything is written to it, `begin_run` must have been called.

    Raises:
      RunDirectoryError: when it holds a run of another experiment, with other flags
        (named in the message) or of another format, or results of one that it does not
        name.
    """
    path = Path(workdir)
    config_path, summary_path = path / "config.json", path / "summary.json"
    if not config_path.exists():
        _check_no_results(path)
        return RunDirectory(path, _describe(experiment, flags), None)
    config = read_json(config_path, _CONFIG)
    grown = {
        name: flags[name]
        for name in growing
        if _is_larger(flags.get(name), config.get("flags", {}).get(name))
    }
    _check_same(path, config, experiment, _jsonable(flags), grown)
    if grown:
        larger = {**config, "flags": {**config["flags"], **grown}}
        return RunDirectory(path, larger, None, grown=True)
    known = summary_path.exists()
    finished = read_json(summary_path, way_out=AGAIN) if known else None
    return RunDirectory(path, config, finished)


def begin_run(directory: RunDirectory, *, of_runs: bool = False) -> RunDirectory:
    """Makes a directory that `find_run` found, with its `config.json`, and locks it.

    A run that has grown and has checkpoints, or is `of_runs` that have, keeps its old
    config and summary until `begin_growth`, since restoring it may fail.

    Returns:
      The directory; no other process can begin a run in it for as long as this lives.

    Raises:
      RunDirectoryError: when it cannot be written, when another process has begun a run
        in it, or has begun another run in it since.
    """
    path, config_path = directory.path, directory.path / "config.json"
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = hold(path)
    except Locked as error:
        raise RunDirectoryError(
            f"--workdir={path} is in use by {error}; wait for it to end, or choose "
            "another one."
        ) from error
    except OSError as error:
        raise RunDirectoryError(
            f"--workdir={path} cannot be written: {error.strerror or error}."
        ) from error
    config, directory = directory.config, directory._replace(lock=lock)
    if directory.grown:
        has_state = of_runs or any(path.glob("checkpoints/*"))
        return directory if has_state else begin_growth(directory)
    if config_path.exists():
        there = read_json(config_path, _CONFIG)
        _check_same(path, there, config["experiment"], config["flags"], ())
    else:
        write_json(config_path, config)
    return directory


def begin_growth(directory: RunDirectory) -> RunDirectory:
    """Writes the config of a run that has grown, and marks it as unfinished."""
    if not directory.grown:
        return directory
    (directory.path / "summary.json").unlink(missing_ok=True)
    write_json(directory.path / "config.json", directory.config)
    return directory._replace(grown=False)


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
    return begin_run(find_run(workdir, experiment, flags))


def write_rows(directory: RunDirectory, rows: Iterable[Mapping[str, object]]) -> None:
    """Replaces the rows on disk by these."""
    text = "".join(strict_json.to_text(row) + "\n" for row in rows)
    write_text(directory.metrics_path, text)


def append_row(directory: RunDirectory, row: Mapping[str, object]) -> None:
    """Adds one row as one whole line."""
    with directory.metrics_path.open("a", encoding="utf-8") as file:
        file.write(strict_json.to_text(row) + "\n")


def write_json(path: Path, value: Json) -> None:
    """Writes JSON with the number of its format, either wholly or not at all."""
    numbered = {"format": FORMAT, **value}
    write_text(path, strict_json.to_text(numbered, indent=2) + "\n")


def read_json(
    path: Path, fields: Mapping[str, Shape] | None = None, *, way_out: str = ""
) -> Json:
    """What `write_json` has written, without the number of its format.

    Args:
      path: of the file.
      fields: what it must have, as for `strict_json.check_fields`.
      way_out: what the user can do with one that cannot be read.

    Raises:
      RunDirectoryError: when it cannot be read, is of another format or lacks a field.
    """
    try:
        text = path.read_text(encoding="utf-8")
        value = strict_json.check_fields(strict_json.parse(text), {})
        check_format(path, value.pop("format", None), FORMAT)
        return strict_json.check_fields(value, fields or {})
    except RunDirectoryError:
        raise
    except (OSError, ValueError) as error:
        raise unreadable(path, error, way_out) from error


def unreadable(path: Path, error: Exception, way_out: str = "") -> RunDirectoryError:
    """The error for a file that cannot be read.

    >>> str(unreadable(Path("a/summary.json"), ValueError("no JSON"), "delete it"))
    'a/summary.json cannot be read: no JSON; delete it.'
    """
    out = f"; {way_out}" if way_out else ""
    return RunDirectoryError(f"{path} cannot be read: {one_line(error)}{out}.")


def check_format(
    path: Path,
    found: object,
    expected: int,
    *,
    way_out: str = "choose another --workdir",
) -> None:
    """Refuses a file of another format.

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
        has = "none" if found is None else repr(found)[:40]
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
    return {
        "experiment": experiment,
        "flags": _jsonable(flags),
        "seed": flags.get("seed"),
        **describe_code(),
    }


def describe_code() -> Json:
    """Versions of Python and of the packages that matter, and the git commit."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {"versions": versions, "git_commit": _git_commit()}


def _jsonable(flags: Mapping[str, Any]) -> Json:
    return json.loads(json.dumps(dict(flags)))


def _check_no_results(path: Path) -> None:
    if any(any(path.glob(name)) for name in RESULTS):
        raise RunDirectoryError(
            f"--workdir={path} holds results but no config.json; restore it or choose "
            "another one."
        )


def _is_larger(new: object, old: object) -> bool:
    return isinstance(new, int) and isinstance(old, int) and new > old


def _check_same(
    path: Path, config: Json, experiment: str, flags: Json, free: Collection[str]
) -> None:
    """Refuses the run of `config` for one of another experiment or other flags."""
    if config.get("experiment") != experiment:
        raise RunDirectoryError(
            f"--workdir={path} holds a run of experiment "
            f"{str(config.get('experiment'))[:40]!r}, not {experiment!r}; choose "
            "another one."
        )
    there = {n: x for n, x in config.get("flags", {}).items() if n not in free}
    now = {n: x for n, x in flags.items() if n not in free}
    differing = _differing(there, now)
    if differing:
        raise RunDirectoryError(
            f"--workdir={path} holds a run with other flags ({'; '.join(differing)})"
            "; choose another one or use the same flags."
        )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]} ..."


def _differing(old: Json, new: Json) -> list[str]:
    names = sorted((set(old) | set(new)) - SPEED_ONLY_FLAGS)
    return [
        f"--{name[:40]}: {_short(old.get(name))} there, {_short(new.get(name))} now"
        for name in names
        if old.get(name) != new.get(name)
    ]


def make_entries_durable(folder: Path) -> None:
    """Makes the names in a folder outlast a crash, as `os.fsync` does the contents."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


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
