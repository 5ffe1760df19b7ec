"""Prepared data: TensorFlow Datasets' format, written and read without TensorFlow.

TFDS keeps one example a record and decodes each in Python, which takes seconds for
60,000 images. Here a record is a *block* of consecutive examples, so that reading is a
few copies of large arrays; the files are those of any other TFDS data set and open with
`tfds.builder_from_directory`.

What was prepared by TFDS's own builders of `mnist`, `fashion_mnist` and `cifar10` in
the `array_record` format is read as well. The default format of TFDS, `tfrecord`, needs
TensorFlow to be read and is recognised, not read.
"""

import contextlib
import io
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fedjax_comp import strict_json
from fedjax_comp.data.sources.contract import DataUnavailable, Source, Split, Splits
from fedjax_comp.extras import MissingExtra, needs
from fedjax_comp.wording import one_line

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

VERSION = "1.0.0"
FILE_FORMAT = "array_record"
_PREFIX = "fedjax_comp_"
_UNFINISHED = ".preparing-"
_BLOCK_BYTES = 1 << 20
_STALE_SECONDS = 24 * 3600


class Found(NamedTuple):
    """What a folder holds of a data set.

    Attributes:
      readable: the folder of a version that can be read, or None.
      unreadable: folders of versions in a format that needs TensorFlow.
    """

    readable: Path | None
    unreadable: tuple[Path, ...]


def prepared_folder(data_dir: Path, name: str) -> Path:
    """Where `write` puts the data set `name`."""
    return data_dir / f"{_PREFIX}{name}" / VERSION


def find(data_dir: Path, name: str) -> Found:
    """Looks for a prepared data set, ours first and then TFDS's own of that name.

    Args:
      data_dir: a TFDS data folder, or the folder of one version itself.
      name: name of the data set.

    Returns:
      What there is.
    """
    official = data_dir / name
    candidates = [prepared_folder(data_dir, name)]
    if official.is_dir():
        candidates += sorted(official.iterdir(), key=_version_key, reverse=True)
    if data_dir.parent.name in (name, f"{_PREFIX}{name}"):
        candidates.append(data_dir)
    present = [path for path in candidates if (path / "dataset_info.json").is_file()]
    readable = [path for path in present if _file_format(path) == FILE_FORMAT]
    return Found(
        readable=readable[0] if readable else None,
        unreadable=tuple(path for path in present if path not in readable),
    )


def write(data_dir: Path, source: Source, splits: Splits) -> Path:
    """Prepares a data set for TFDS, so that it is there whole or not at all.

    It is written beside its place and moved there by one rename. Of two writers at a
    time the first to finish wins.

    Args:
      data_dir: a TFDS data folder, created if need be.
      source: where the arrays come from.
      splits: the arrays.

    Returns:
      The folder of the prepared version.

    Raises:
      OSError: if `data_dir` cannot be written.
      MissingExtra: without the packages of the extra `data`.
    """
    _library()
    target = prepared_folder(data_dir, source.name)
    with unfinished(data_dir) as scratch:
        builder = _builder(scratch, source, splits)
        with _quiet():
            builder.download_and_prepare()
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.rename(prepared_folder(scratch, source.name), target)
        except OSError:
            if find(data_dir, source.name).readable != target:
                raise
    return target


def read(folder: Path) -> Splits:
    """Reads the folder of one prepared version.

    Args:
      folder: has `dataset_info.json`, in `array_record` format.

    Returns:
      Splits `train` and `test`.

    Raises:
      DataUnavailable: if files are missing or damaged.
      MissingExtra: without the packages of the extra `data`.
    """
    tfds = _library()
    try:
        builder = tfds.builder_from_directory(str(folder))
        features = set(builder.info.features)
        convert = _from_blocks if {"x", "y"} <= features else _from_official
        return {name: convert(builder, name) for name in ("train", "test")}
    except MissingExtra:
        raise
    # TFDS, array_record and protobuf raise many unrelated types for a damaged file.
    except Exception as error:
        raise DataUnavailable(
            f"Expected a prepared data set in {folder}, which cannot be read "
            f"({type(error).__name__}: {one_line(error)}). Delete that folder and "
            "prepare again."
        ) from error


@contextlib.contextmanager
def unfinished(data_dir: Path) -> Iterator[Path]:
    """A scratch folder beside prepared data, removed in the end.

    So are the folders made for it, where nothing was prepared in them. A killed process
    leaves it behind, under a name that is never taken for data; the next preparation
    removes those older than a day.
    """
    made = [folder for folder in (data_dir, *data_dir.parents) if not folder.exists()]
    data_dir.mkdir(parents=True, exist_ok=True)
    for old in data_dir.glob(f"{_UNFINISHED}*"):
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(old, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=data_dir))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        with contextlib.suppress(OSError):  # at the first that holds something
            for folder in made:
                folder.rmdir()


def _library() -> ModuleType:
    """TFDS: slow to import, and digits and raw files do without."""
    with needs("data", "prepared data"):
        import array_record  # noqa: F401 (TFDS imports it while it reads)
        import tensorflow_datasets as tfds
    return tfds


def _file_format(folder: Path) -> str:
    try:
        info = strict_json.check_fields(
            strict_json.parse((folder / "dataset_info.json").read_bytes()), {}
        )
    except (OSError, ValueError):
        return "damaged"
    # Written only by newer versions of TFDS; before, there was one format.
    return str(info.get("fileFormat") or "tfrecord")


def _version_key(path: Path) -> tuple[int, ...]:
    is_version = re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})*", path.name)
    return tuple(map(int, path.name.split("."))) if is_version else ()


def _fields(split: Split) -> dict[str, np.ndarray]:
    return {name: array for name, array in split._asdict().items() if array is not None}


def _builder(
    data_dir: Path, source: Source, splits: Splits
) -> "tfds.core.GeneratorBasedBuilder":
    """A TFDS builder that writes arrays which are already in memory."""
    import tensorflow_datasets as tfds

    features = {
        name: tfds.features.Tensor(
            shape=(None, *array.shape[1:]), dtype=array.dtype, encoding="bytes"
        )
        for name, array in _fields(splits["train"]).items()
    }

    class Blocks(  # type: ignore[call-arg]
        tfds.core.GeneratorBasedBuilder, skip_registration=True
    ):
        """One record a block of consecutive examples."""

        name = f"{_PREFIX}{source.name}"
        VERSION = tfds.core.Version(VERSION)
        # Nothing is downloaded by this builder, and looking for a checksum file beside
        # it needs a package that TFDS does not install.
        url_infos = None

        def _info(self) -> "tfds.core.DatasetInfo":
            return tfds.core.DatasetInfo(
                builder=self,
                description=source.description,
                features=tfds.features.FeaturesDict(features),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager: object) -> Mapping[str, object]:
            del dl_manager
            return {name: self._generate_examples(splits[name]) for name in splits}

        def _generate_examples(
            self, split: Split
        ) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
            step = max(1, _BLOCK_BYTES // max(1, split.x[:1].nbytes))
            fields = _fields(split)
            for start in range(0, len(split.x), step):
                block = {k: v[start : start + step] for k, v in fields.items()}
                yield start, block

    return Blocks(data_dir=str(data_dir), file_format=FILE_FORMAT)


def _records(builder: "tfds.core.DatasetBuilder", split: str, **options: Any) -> list:
    source = builder.as_data_source(split, **options)
    return list(source.__getitems__(list(range(len(source)))))


def _from_blocks(builder: "tfds.core.DatasetBuilder", split: str) -> Split:
    records = _records(builder, split)
    return Split(
        **{
            name: np.concatenate([record[name] for record in records])
            for name in builder.info.features
        }
    )


def _from_official(builder: "tfds.core.DatasetBuilder", split: str) -> Split:
    """Images as TFDS's own builders store them, one PNG a record."""
    with needs("data", "prepared images"):
        from PIL import Image
    tfds = _library()
    records = _records(builder, split, decoders={"image": tfds.decode.SkipDecoding()})
    images = np.stack(
        [np.asarray(Image.open(io.BytesIO(record["image"]))) for record in records]
    )
    labels = np.asarray([record["label"] for record in records], np.int32)
    return Split(images.reshape(*images.shape[:3], -1), labels)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the bars and prints of TFDS, which tell of a data set of blocks."""
    from tensorflow_datasets.core.utils import tqdm_utils

    active = tqdm_utils._active
    tqdm_utils.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        if active:
            tqdm_utils.enable_progress_bar()
