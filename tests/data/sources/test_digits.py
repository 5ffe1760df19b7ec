"""The digits of the package are scikit-learn's, and so is their split."""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from fedjax_comp.data.sources.digits import digits


def test_images_labels_and_split_are_those_of_scikit_learn():
    dataset = digits()
    images, labels = load_digits(return_X_y=True)
    rows = train_test_split(
        np.arange(1797), test_size=360, stratify=labels, random_state=0
    )
    for split, of_split in zip((dataset.train, dataset.test), rows, strict=True):
        np.testing.assert_array_equal(split.x.reshape(-1, 64), images[of_split])
        np.testing.assert_array_equal(split.y, labels[of_split])
        assert split.x.dtype == np.uint8
        assert split.y.dtype == np.int32
    assert dataset.train.x.max() * dataset.scale == 1


def test_the_split_is_stratified():
    share = np.bincount(digits().test.y) / np.bincount(load_digits().target)
    # 360 of 1,797; a class count may be rounded by one.
    np.testing.assert_allclose(share, 360 / 1797, atol=1 / 170)
