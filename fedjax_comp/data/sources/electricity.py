"""Electricity: does the price in New South Wales rise? A stream of half-hours.

45,312 half-hours from May 1996 to December 1998, in time order, six numbers each: the
half-hour's place in the day, price and demand in New South Wales and in Victoria, and
the transfer between them, all normalised to [0, 1]. Class 1 where the price is above
its mean of the last day ("UP" in other copies). The market changed meanwhile, hence a
benchmark of concept drift.

The first 39,648 rows (826 days of 48) are training examples, and the last 5,664 (118
days) are for testing: they are later in time, as are the data a model is used on.

Source: Harries 1999, "SPLICE-2 Comparative Evaluation: Electricity Pricing"; Gama,
Medas, Castillo, Rodrigues 2004, "Learning with Drift Detection".
"""

from pathlib import Path

from fedjax_comp.data.sources.contract import Source, Split, Splits
from fedjax_comp.data.sources.table import codes, numbers, read_table

FEATURES = ("period", "nswprice", "nswdemand", "vicprice", "vicdemand", "transfer")
LABELS = ("0", "1")

_FILE = "electricity.csv.gz"
_ROWS_A_DAY = 48
_TEST_PART = 8


def read_raw(folder: Path) -> Splits:
    """Reads `electricity.csv.gz`; the last eighth of the days is for testing.

    Raises:
      ValueError: if the file is damaged or has other columns or labels.
    """
    table = read_table(folder / _FILE)
    x = numbers(table, FEATURES)
    y = codes(table, "class", LABELS)
    days = len(y) // _ROWS_A_DAY
    first_test = (days - days // _TEST_PART) * _ROWS_A_DAY
    return {
        "train": Split(x[:first_test], y[:first_test]),
        "test": Split(x[first_test:], y[first_test:]),
    }


SOURCE = Source(
    name="electricity",
    num_classes=2,
    scale=1.0,
    description="Electricity (Elec2), in time order. Harries, SPLICE-2, 1999.",
    raw_files=(_FILE,),
    read_raw=read_raw,
    how_to_get=(
        "take electricity.csv of CapyMOA "
        "(https://github.com/adaptive-machine-learning/CapyMOA), with the columns "
        f"{', '.join(FEATURES)} and class, compress it to {_FILE}"
    ),
    raw_folder="tabular",
)
