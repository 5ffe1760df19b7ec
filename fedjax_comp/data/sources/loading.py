"""Three ways to a data set, in this order: prepared, raw files, download.

1. *Prepared*: a version in `data_dir` that was prepared before.
2. *Raw files*: `raw_dir/<name>/` (or a folder that several data sets share), where
   `raw_dir` is given or named by the variable `FEDJAX_COMP_RAW_DATA`. They are
   prepared once, in `data_dir` or, without one, in a cache under a checksum of their
   content, so that other files are never mistaken for them.
3. *Download*, prepared once in the same places. Where the cache holds exactly one
   version prepared from raw files, it is taken in place of a download, with a warning.

The cache is `fedjax_comp` in `XDG_CACHE_HOME`, by default `~/.cache`.
"""

import contextlib
import hashlib
import os
from pathlib import Path

from absl import logging

from fedjax_comp.data.sources import download, prepared
from fedjax_comp.data.sources.checked import check_dataset
from fedjax_comp.data.sources.contract import (
    Dataset,
    DataUnavailable,
    InvalidData,
    Source,
    Splits,
    to_dataset,
)
from fedjax_comp.extras import MissingExtra

RAW_DATA_VARIABLE = "FEDJAX_COMP_RAW_DATA"


def load_source(
    source: Source, *, data_dir: Path | None, raw_dir: Path | None
) -> Dataset:
    """Loads a data set in the first of the three ways that works.

    Args:
      source: the data set.
      data_dir: where prepared data is or is to be; None for the cache.
      raw_dir: where raw files are; None for what `FEDJAX_COMP_RAW_DATA` names. With
        it nothing is downloaded.

    Returns:
      The data set.

    Raises:
      DataUnavailable: if no way works; says why each did not, and what to do.
      InvalidData: if raw files are there but damaged, or `check_dataset` refuses what
        they hold.
    """
    tried: list[str] = []
    for way in (_from_prepared, _from_raw, _from_download):
        try:
            result = way(source, data_dir, raw_dir)
        except MissingExtra as error:
            result = str(error)
        if not isinstance(result, str):
            return to_dataset(source, result)
        tried.append(result)
    folder = source.raw_folder or source.name
    raise DataUnavailable(
        f"Expected the data set {source.name} in one of three places.\n"
        f"  1. prepared data: {tried[0]}.\n"
        f"  2. raw files: {tried[1]}.\n"
        f"  3. download: {tried[2]}.\n"
        f"To get it, {source.how_to_get}, put the files into a folder named "
        f"{folder} and give the folder above it as raw_dir or in "
        f"{RAW_DATA_VARIABLE}."
    )


def cache_dir() -> Path:
    """Where data is prepared when no `data_dir` is given."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "fedjax_comp"


def _from_prepared(
    source: Source, data_dir: Path | None, raw_dir: Path | None
) -> Splits | str:
    del raw_dir
    if data_dir is None:
        return "no data_dir was given"
    if not data_dir.is_dir():
        return f"there is no folder {data_dir}"
    found = prepared.find(data_dir, source.name)
    if found.readable is not None:
        return _read_prepared(source, found.readable)
    if not found.unreadable:
        return f"{data_dir} has no {source.name}"
    reason = (
        f"{found.unreadable[0]} was not prepared in the format "
        f"{prepared.FILE_FORMAT} and needs TensorFlow to be read. Prepare it again, "
        "where TensorFlow is installed, with "
        f'tfds.builder("{source.name}", data_dir=..., '
        f'file_format="{prepared.FILE_FORMAT}").download_and_prepare(), or from raw '
        "files or a download as below"
    )
    logging.warning("%s: %s.", source.name, reason)
    return reason


def _from_raw(
    source: Source, data_dir: Path | None, raw_dir: Path | None
) -> Splits | str:
    if raw_dir is None and os.environ.get(RAW_DATA_VARIABLE):
        raw_dir = Path(os.environ[RAW_DATA_VARIABLE])
    if raw_dir is None:
        return f"no raw_dir was given and {RAW_DATA_VARIABLE} is not set"
    folder = raw_dir.expanduser() / (source.raw_folder or source.name)
    if not folder.is_dir():
        return f"there is no folder {folder}"
    missing = [name for name in source.raw_files if not any(folder.glob(name))]
    if missing:
        return f"{folder} has no {', '.join(missing)}"
    target = data_dir or cache_dir() / f"raw-{_fingerprint(source, folder)}"
    found = prepared.find(target, source.name)
    if found.readable is not None and data_dir is None:
        with contextlib.suppress(MissingExtra):
            return _read_prepared(source, found.readable)
    try:
        splits = source.read_raw(folder)
        check_dataset(to_dataset(source, splits))
    except ValueError as error:
        raise InvalidData(f"{folder}: {error}") from error
    _keep(target, source, splits)
    return splits


def _from_download(
    source: Source, data_dir: Path | None, raw_dir: Path | None
) -> Splits | str:
    if raw_dir is not None:
        return "not tried, since raw_dir was given"
    target = data_dir or cache_dir() / "download"
    kept = None if data_dir is not None else _in_cache(source, target)
    if kept is not None:
        return _read_prepared(source, kept)
    if not source.urls or source.read_download is None:
        return "its public copies cannot be read without TensorFlow or further packing"
    try:
        with prepared.unfinished(target) as scratch:
            download.fetch(source.urls, scratch)
            splits = source.read_download(scratch)
            check_dataset(to_dataset(source, splits))
            _keep(target, source, splits)
            return splits
    except (OSError, ValueError) as error:
        return str(error)


def _in_cache(source: Source, target: Path) -> Path | None:
    """The version that was downloaded, or the only one prepared from raw files."""
    downloaded = prepared.find(target, source.name).readable
    if downloaded is not None:
        logging.info("%s: from %s.", source.name, downloaded)
        return downloaded
    folders = sorted(cache_dir().glob("raw-*"))
    versions = [prepared.find(folder, source.name).readable for folder in folders]
    found = [version for version in versions if version is not None]
    if len(found) == 1:
        logging.warning(
            "%s: from %s, prepared from raw files before; give raw_dir for others.",
            source.name,
            found[0],
        )
        return found[0]
    if found:
        logging.warning(
            "%s: the cache has %d versions prepared from raw files, and none is taken; "
            "give raw_dir to choose one.",
            source.name,
            len(found),
        )
    return None


def _read_prepared(source: Source, folder: Path) -> Splits:
    splits = prepared.read(folder)
    try:
        check_dataset(to_dataset(source, splits))
    except ValueError as error:
        raise DataUnavailable(
            f"{folder}: {error} Delete that folder and prepare again."
        ) from error
    return splits


def _keep(target: Path, source: Source, splits: Splits) -> None:
    """Prepares for the next time; a place that cannot be written costs only that."""
    try:
        folder = prepared.write(target, source, splits)
        logging.info("%s: prepared in %s.", source.name, folder)
    except OSError as error:
        logging.warning(
            "%s: not kept, %s cannot be written: %s.", source.name, target, error
        )
    except MissingExtra as error:
        logging.info("%s: read anew every time; %s.", source.name, error)


def _fingerprint(source: Source, folder: Path) -> str:
    """A checksum of the names and contents of the raw files."""
    digest = hashlib.sha256(prepared.VERSION.encode())
    paths = {path for name in source.raw_files for path in folder.glob(name)}
    for path in sorted(paths):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.name} {content}\n".encode())
    return digest.hexdigest()[:16]
