"""Adult: does a person earn more than 50,000 dollars a year? From the 1994 census.

32,561 people for training and 16,281 for testing, as published: six numbers each,
standardised by the training examples, and eight categories, one-hot; `?`, a missing
value, is a category of its own. 108 features; label 1 for those who earn more.

Source: Kohavi 1996, "Scaling up the accuracy of naive-Bayes classifiers: a
decision-tree hybrid", KDD.
"""

from pathlib import Path

import numpy as np

from fedjax_comp.data.sources.contract import Source, Split, Splits
from fedjax_comp.data.sources.table import (
    Table,
    codes,
    numbers,
    one_hot,
    read_table,
    standardised,
)

NUMBERS = (
    "age",
    "fnlwgt",
    "education-num",
    "capital-gain",
    "capital-loss",
    "hours-per-week",
)
_WORDS = {
    "workclass": (
        "? Federal-gov Local-gov Never-worked Private Self-emp-inc Self-emp-not-inc "
        "State-gov Without-pay"
    ),
    "education": (
        "10th 11th 12th 1st-4th 5th-6th 7th-8th 9th Assoc-acdm Assoc-voc Bachelors "
        "Doctorate HS-grad Masters Preschool Prof-school Some-college"
    ),
    "marital-status": (
        "Divorced Married-AF-spouse Married-civ-spouse Married-spouse-absent "
        "Never-married Separated Widowed"
    ),
    "occupation": (
        "? Adm-clerical Armed-Forces Craft-repair Exec-managerial Farming-fishing "
        "Handlers-cleaners Machine-op-inspct Other-service Priv-house-serv "
        "Prof-specialty Protective-serv Sales Tech-support Transport-moving"
    ),
    "relationship": ("Husband Not-in-family Other-relative Own-child Unmarried Wife"),
    "race": "Amer-Indian-Eskimo Asian-Pac-Islander Black Other White",
    "sex": "Female Male",
    "native-country": (
        "? Cambodia Canada China Columbia Cuba Dominican-Republic Ecuador "
        "El-Salvador England France Germany Greece Guatemala Haiti "
        "Holand-Netherlands Honduras Hong Hungary India Iran Ireland Italy Jamaica "
        "Japan Laos Mexico Nicaragua Outlying-US(Guam-USVI-etc) Peru Philippines "
        "Poland Portugal Puerto-Rico Scotland South Taiwan Thailand Trinadad&Tobago "
        "United-States Vietnam Yugoslavia"
    ),
}
CATEGORIES = {column: tuple(words.split()) for column, words in _WORDS.items()}
"""The words of each column; in the features they follow the numbers, in this order."""

LABELS = ("<=50K", ">50K")

_FILES = {"train": "adult.data.csv.gz", "test": "adult.test.csv.gz"}


def column_widths() -> tuple[int, ...]:
    """Features of each column: 1 for a number, otherwise one for every word.

    >>> len(column_widths()), sum(column_widths())
    (14, 108)
    """
    return (1,) * len(NUMBERS) + tuple(len(words) for words in CATEGORIES.values())


def read_raw(folder: Path) -> Splits:
    """Reads both files.

    Raises:
      ValueError: if a file is damaged or has other columns, words or labels.
    """
    tables = {name: read_table(folder / file) for name, file in _FILES.items()}
    values = {name: numbers(table, NUMBERS) for name, table in tables.items()}
    return {
        name: Split(
            np.concatenate(
                [standardised(values[name], values["train"]), _categories(table)],
                axis=1,
            ),
            codes(table, "classification", LABELS),
        )
        for name, table in tables.items()
    }


def _categories(table: Table) -> np.ndarray:
    return np.concatenate(
        [one_hot(table, column, words) for column, words in CATEGORIES.items()], axis=1
    )


SOURCE = Source(
    name="adult",
    num_classes=2,
    scale=1.0,
    description="Adult, census income. Kohavi, KDD 1996; UCI, CC BY 4.0.",
    raw_files=tuple(_FILES.values()),
    read_raw=read_raw,
    how_to_get=(
        "take adult.data and adult.test of the UCI repository, write a first line "
        "with the columns' names (the label's is classification), leave out the dots "
        f"behind the labels, compress them to {' and '.join(_FILES.values())}"
    ),
    raw_folder="tabular",
)
