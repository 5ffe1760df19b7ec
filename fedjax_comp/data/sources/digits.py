"""Digits: 1,797 handwritten digits, 8 x 8, in a file of the package; no download.

Pixels are 0 to 16, stored as uint8. 1,437 train and 360 test examples, stratified and
always the same.

Source: Alpaydin, Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI Machine
Learning Repository, licensed under CC BY 4.0. `digits.npz` has the test part of that
data set unchanged, in the order in which scikit-learn's `load_digits` gives it: `x`
`[1797, 64]`, `y` `[1797]`, and `train` and `test`, the rows that scikit-learn's
`train_test_split(test_size=360, stratify=y, random_state=0)` gives to each.
"""

from pathlib import Path

import numpy as np

from fedjax_comp.base import Examples
from fedjax_comp.data.sources.contract import Dataset

_FILE = Path(__file__).with_name("digits.npz")


def digits() -> Dataset:
    """The data set with its fixed split.

    >>> digits().train.x.shape, digits().test.x.shape
    ((1437, 8, 8, 1), (360, 8, 8, 1))
    """
    with np.load(_FILE) as arrays:
        x = arrays["x"].reshape(-1, 8, 8, 1)
        y = arrays["y"].astype(np.int32)
        train, test = arrays["train"], arrays["test"]
    return Dataset(
        name="digits",
        train=Examples(x[train], y[train]),
        test=Examples(x[test], y[test]),
        train_groups=None,
        test_groups=None,
        num_classes=10,
        scale=1 / 16,
    )
