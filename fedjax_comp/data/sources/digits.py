"""Digits: 1,797 handwritten digits, 8 x 8, part of scikit-learn; needs no download.

Pixels are 0 to 16, stored as uint8. 1,437 train and 360 test examples, stratified and
always the same. Source: Alpaydin, Kaynak 1998, "Optical Recognition of Handwritten
Digits", UCI Machine Learning Repository (CC BY 4.0); the copy of scikit-learn is the
test part of that data set.
"""

import numpy as np

from fedjax_comp.base import Examples
from fedjax_comp.data.sources.contract import Dataset

_NUM_TEST = 360


def digits() -> Dataset:
    """The data set with its fixed split.

    >>> digits().train.x.shape, digits().test.x.shape
    ((1437, 8, 8, 1), (360, 8, 8, 1))
    """
    # Here and not above: it takes as long to import as jax, for this data set alone.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    x = images.reshape(-1, 8, 8, 1).astype(np.uint8)
    y = labels.astype(np.int32)
    train, test = train_test_split(
        np.arange(len(y)), test_size=_NUM_TEST, stratify=y, random_state=0
    )
    return Dataset(
        name="digits",
        train=Examples(x[train], y[train]),
        test=Examples(x[test], y[test]),
        train_groups=None,
        test_groups=None,
        num_classes=10,
        scale=1 / 16,
    )
