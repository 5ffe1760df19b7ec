"""Data sets by name, in host memory. Nothing here imports TensorFlow.

`digits` is a file of the package; the others come from prepared data, raw files or a
download (`fedjax_comp.data.sources.loading`).
"""

import difflib
import os
from pathlib import Path

from fedjax_comp.data.sources import (
    adult,
    cifar10,
    cifar100,
    electricity,
    fashion_mnist,
    femnist,
    german,
    mnist,
    shakespeare,
    stackoverflow,
    wdbc,
)
from fedjax_comp.data.sources.contract import (
    Dataset,
    DataUnavailable,
    InvalidData,
    Source,
    Split,
    Splits,
)
from fedjax_comp.data.sources.digits import digits
from fedjax_comp.data.sources.loading import RAW_DATA_VARIABLE, cache_dir, load_source

__all__ = [
    "NAMES",
    "RAW_DATA_VARIABLE",
    "SOURCES",
    "DataUnavailable",
    "Dataset",
    "InvalidData",
    "Source",
    "Split",
    "Splits",
    "cache_dir",
    "load",
    "load_source",
]

SOURCES: dict[str, Source] = {
    module.SOURCE.name: module.SOURCE
    for module in (
        mnist,
        fashion_mnist,
        cifar10,
        cifar100,
        femnist,
        shakespeare,
        stackoverflow,
        electricity,
        adult,
        wdbc,
        german,
    )
}
"""Data sets that come in files; `digits` needs none."""

NAMES = ("digits", *SOURCES)
"""Every name that `load` knows."""


def load(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    raw_dir: str | os.PathLike[str] | None = None,
) -> Dataset:
    """Loads a data set by name.

    Args:
      name: one of `NAMES`.
      data_dir: where prepared data is or is to be kept; None or "" for the cache.
      raw_dir: folder of raw files, `raw_dir/<name>/...`; None or "" for what the
        environment variable `FEDJAX_COMP_RAW_DATA` names.

    Returns:
      The data set, as NumPy arrays.

    Raises:
      ValueError: for an unknown name, with the nearest known one.
      InvalidData: for damaged raw files.
      DataUnavailable: if it can be had in none of the three ways.

    >>> load("digits").num_classes
    10
    """
    if name == "digits":
        return digits()
    if name not in SOURCES:
        near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else "."
        raise ValueError(f"Expected dataset={name} in {', '.join(NAMES)}{hint}")
    return load_source(
        SOURCES[name],
        data_dir=Path(data_dir).expanduser() if data_dir else None,
        raw_dir=Path(raw_dir).expanduser() if raw_dir else None,
    )
