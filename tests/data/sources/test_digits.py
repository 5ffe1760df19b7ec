import numpy as np
from sklearn.datasets import load_digits

from fedjax_comp.data.sources.digits import digits


def test_every_image_is_in_one_split():
    dataset = digits()
    images, labels = load_digits(return_X_y=True)
    rows = np.concatenate([dataset.train.x, dataset.test.x]).reshape(-1, 64)
    both = np.column_stack([rows, np.concatenate([dataset.train.y, dataset.test.y])])
    assert sorted(both.tolist()) == sorted(np.column_stack([images, labels]).tolist())
    assert dataset.train.x.dtype == np.uint8
    assert dataset.train.y.dtype == dataset.test.y.dtype == np.int32
    assert dataset.train.x.max() * dataset.scale == 1


def test_the_split_is_stratified_and_fixed():
    labels = digits().test.y
    share = np.bincount(labels) / np.bincount(load_digits().target)
    # 360 of 1,797; a class count may be rounded by one.
    np.testing.assert_allclose(share, 360 / 1797, atol=1 / 170)
    np.testing.assert_array_equal(labels, digits().test.y)
