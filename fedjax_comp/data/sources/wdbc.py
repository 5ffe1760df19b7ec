"""Breast cancer (Wisconsin, diagnostic): is a tumour malignant? 569 patients.

Thirty numbers each, of the nuclei in one image: ten properties, each as a mean, a
standard error and a worst value, standardised by the training examples. Label 1 for
malignant. There is no published split: every fifth patient is for testing.

Source: Street, Wolberg, Mangasarian 1993, "Nuclear feature extraction for breast tumor
diagnosis".
"""

from pathlib import Path

import numpy as np

from fedjax_comp.data.sources.contract import Source, Split, Splits
from fedjax_comp.data.sources.table import codes, numbers, read_table, standardised

NUM_FEATURES = 30
LABELS = ("B", "M")

_FILE = "wdbc.csv"
_TEST_EVERY = 5


def read_raw(folder: Path) -> Splits:
    """Reads `wdbc.csv`.

    Raises:
      ValueError: if the file is damaged or has other columns or labels.
    """
    table = read_table(folder / _FILE)
    features = tuple(c for c in table.columns if c not in ("id", "diagnosis"))
    if len(features) != NUM_FEATURES:
        raise ValueError(
            f"Expected {NUM_FEATURES} features in {table.path}, got {len(features)}."
        )
    x, y = numbers(table, features), codes(table, "diagnosis", LABELS)
    for_test = np.arange(len(y)) % _TEST_EVERY == _TEST_EVERY - 1
    x = standardised(x, x[~for_test])
    return {
        "train": Split(x[~for_test], y[~for_test]),
        "test": Split(x[for_test], y[for_test]),
    }


SOURCE = Source(
    name="wdbc",
    num_classes=2,
    scale=1.0,
    description="Breast cancer Wisconsin (diagnostic). Street et al. 1993; CC BY 4.0.",
    raw_files=(_FILE,),
    read_raw=read_raw,
    how_to_get=(
        "take wdbc.data of the UCI repository, write a first line with the columns' "
        f"names (id, diagnosis and the thirty features), name it {_FILE}"
    ),
    raw_folder="tabular",
)
