"""What a data set is, and what a source of one must say about itself."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedjax_comp.base import Examples


class DataUnavailable(ValueError):
    """A data set could be had in none of the ways there are; says which and why."""


class InvalidData(ValueError):
    """Arrays or files are not the data they should be; one line says where and why."""


class Dataset(NamedTuple):
    """A data set in host memory, before it is given to clients.

    Attributes:
      name: what `load` knows it by.
      train: NumPy examples; `x` is `[N, ...]` in the dtype it is stored in, `y` int32
        `[N]` or `[N, T]` (floats of any shape with `num_classes=0`).
      test: the same for testing.
      train_groups: int32 `[N]`, the natural client of each example, or None.
      test_groups: int32 `[N_test]` in the same numbering, or None. A group may have
        test examples only: a client that is never trained on.
      num_classes: labels are in `[0, num_classes)`; 0 where they are not classes but
        numbers to regress on.
      scale: what turns stored inputs into numbers of order one, `x * scale`; 1 for
        inputs that are not numbers but symbols. Anything more, such as removing a
        mean, belongs to the model.
      ignore_label: a label that is padding and not to be scored, or None.
    """

    name: str
    train: Examples
    test: Examples
    train_groups: np.ndarray | None
    test_groups: np.ndarray | None
    num_classes: int
    scale: float
    ignore_label: int | None = None


class Split(NamedTuple):
    """The arrays of one split as they are read and stored; `group` may be None."""

    x: np.ndarray
    y: np.ndarray
    group: np.ndarray | None = None


Splits = Mapping[str, Split]
"""Exactly the keys `train` and `test`."""


class Source(NamedTuple):
    """Everything that is special about one data set.

    Attributes:
      name: what `load` knows it by.
      num_classes: see `Dataset`.
      scale: see `Dataset`.
      description: one line with citation and licence, stored with prepared data.
      raw_files: glob patterns in the raw folder, each of which must match a file.
      read_raw: `(folder) -> Splits`. Raises `ValueError` for damaged files.
      how_to_get: how a person gets the raw files, for the error message.
      urls: file name to address of a public download, empty if there is none that
        plain NumPy can read.
      read_download: `(folder with those files) -> Splits`; None without `urls`.
      ignore_label: see `Dataset`.
      raw_folder: the folder of its raw files where that is not `name`, because several
        data sets share one.
    """

    name: str
    num_classes: int
    scale: float
    description: str
    raw_files: tuple[str, ...]
    read_raw: Callable[[Path], Splits]
    how_to_get: str
    urls: Mapping[str, str] = {}
    read_download: Callable[[Path], Splits] | None = None
    ignore_label: int | None = None
    raw_folder: str | None = None


def to_dataset(source: Source, splits: Splits) -> Dataset:
    """The `Dataset` that `splits` are, with what `source` says of them."""
    train, test = splits["train"], splits["test"]
    return Dataset(
        name=source.name,
        train=Examples(train.x, train.y),
        test=Examples(test.x, test.y),
        train_groups=train.group,
        test_groups=test.group,
        num_classes=source.num_classes,
        scale=source.scale,
        ignore_label=source.ignore_label,
    )
