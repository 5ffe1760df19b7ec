"""German credit: is a person a bad risk? 1,000 customers of a bank.

Seven numbers each, standardised by the training examples, and thirteen categories,
one-hot: 63 features. Label 1 for a bad risk, three of ten. There is no published split:
every fifth customer is for testing. (The published costs, five for a bad risk that is
taken for a good one, are not used.)

Source: Hofmann 1994, "Statlog (German Credit Data)", UCI repository.
"""

from pathlib import Path

import numpy as np

from fedjax_comp.data.sources.contract import Source, Split, Splits
from fedjax_comp.data.sources.table import (
    codes,
    numbers,
    one_hot,
    read_values,
    standardised,
)

NUMBERS = (
    "duration",
    "amount",
    "installment-rate",
    "residence-since",
    "age",
    "existing-credits",
    "dependents",
)
CATEGORIES = {
    "checking": ("A11", "A12", "A13", "A14"),
    "history": ("A30", "A31", "A32", "A33", "A34"),
    "purpose": tuple(f"A4{code}" for code in (0, 1, 10, 2, 3, 4, 5, 6, 7, 8, 9)),
    "savings": ("A61", "A62", "A63", "A64", "A65"),
    "employment": ("A71", "A72", "A73", "A74", "A75"),
    "status": ("A91", "A92", "A93", "A94", "A95"),
    "debtors": ("A101", "A102", "A103"),
    "property": ("A121", "A122", "A123", "A124"),
    "plans": ("A141", "A142", "A143"),
    "housing": ("A151", "A152", "A153"),
    "job": ("A171", "A172", "A173", "A174"),
    "telephone": ("A191", "A192"),
    "foreign": ("A201", "A202"),
}
"""The codes of each attribute as documented, some of which (A47, A95) nobody has; in
the features they follow the numbers, in this order."""

COLUMNS = (
    *("checking", "duration", "history", "purpose", "amount", "savings"),
    *("employment", "installment-rate", "status", "debtors", "residence-since"),
    *("property", "age", "plans", "housing", "existing-credits", "job"),
    *("dependents", "telephone", "foreign", "risk"),
)
"""Of the file, which names none, in its order."""

LABELS = ("1", "2")

_FILE = "german.data"
_TEST_EVERY = 5


def read_raw(folder: Path) -> Splits:
    """Reads `german.data`.

    Raises:
      ValueError: if the file is damaged or has other columns, codes or labels.
    """
    table = read_values(folder / _FILE, COLUMNS)
    values, y = numbers(table, NUMBERS), codes(table, "risk", LABELS)
    words = [one_hot(table, column, known) for column, known in CATEGORIES.items()]
    for_test = np.arange(len(y)) % _TEST_EVERY == _TEST_EVERY - 1
    x = np.concatenate([standardised(values, values[~for_test]), *words], axis=1)
    return {
        "train": Split(x[~for_test], y[~for_test]),
        "test": Split(x[for_test], y[for_test]),
    }


SOURCE = Source(
    name="german",
    num_classes=2,
    scale=1.0,
    description="German credit (Statlog). Hofmann 1994; UCI, CC BY 4.0.",
    raw_files=(_FILE,),
    read_raw=read_raw,
    how_to_get=f"take {_FILE} of the UCI repository (Statlog, German Credit Data)",
    raw_folder="tabular",
)
