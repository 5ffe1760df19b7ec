"""The real files, against what is published of them."""

import sys

import numpy as np
import pytest

from fedjax_comp.data import federate, load, natural

MNIST_TRAIN = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
MNIST_TEST = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@pytest.fixture(scope="session")
def real(raw_data_dir, tmp_path_factory):
    """Loads a real data set by way of prepared files: the second load reads those."""
    data_dir = tmp_path_factory.mktemp("prepared")

    def read(name):
        load(name, data_dir=data_dir, raw_dir=raw_data_dir)
        return load(name, data_dir=data_dir, raw_dir="/nonexistent")

    return read


@pytest.fixture(autouse=True)
def without_tensorflow():
    yield
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize(
    ("name", "train", "test"),
    [
        ("mnist", MNIST_TRAIN, MNIST_TEST),
        ("fashion_mnist", [6000] * 10, [1000] * 10),
    ],
)
def test_label_counts_are_the_published_ones(real, name, train, test):
    dataset = real(name)
    assert dataset.train.x.shape == (60_000, 28, 28, 1)
    assert dataset.test.x.shape == (10_000, 28, 28, 1)
    assert dataset.train.x.dtype == np.uint8
    assert np.bincount(dataset.train.y).tolist() == train
    assert np.bincount(dataset.test.y).tolist() == test


@pytest.mark.thorough
def test_cifar10_is_natural_colour_pictures(real, raw_data_dir):
    dataset = real("cifar10")
    kept = 0
    for path in (raw_data_dir / "cifar10").glob("data_batch_*.npz"):
        with np.load(path) as batch:
            kept += int(batch["exact"].sum())
    assert dataset.train.x.shape == (kept, 32, 32, 3)
    # The published mean of all 50,000 images, 0.4914 0.4822 0.4465 with deviation
    # 0.25; image means of natural pictures deviate by less than a pixel's 0.25, so
    # that a mean over some 20,000 is within six times 0.25 / sqrt(20,000).
    mean = dataset.train.x.reshape(-1, 3).mean(0, dtype=np.float64) * dataset.scale
    bound = 6 * 0.25 / np.sqrt(kept)
    np.testing.assert_allclose(mean, [0.4914, 0.4822, 0.4465], atol=bound)


def test_femnist_writers_are_clients(real):
    dataset = real("femnist")
    assert len(dataset.train.y) == 14_708
    assert len(dataset.test.y) == 4_088
    assert len(set(dataset.train_groups) | set(dataset.test_groups)) == 184
    assert set(dataset.train.y) | set(dataset.test.y) == set(range(62))
    data = federate(dataset, natural(), num_clients=0, seed=0)
    sizes = np.diff(data.offsets)
    assert len(sizes) == 105
    assert (sizes.min(), np.median(sizes), sizes.max()) == (4, 152, 165)


def test_shakespeare_roles_are_clients(real):
    dataset = real("shakespeare")
    data = federate(dataset, natural(), num_clients=0, seed=0)
    assert data.spec.num_clients == 1_230
    assert data.spec.ignore_label == 0
    assert data.spec.num_classes == 80
    assert int(dataset.train.y.max()) == 79
    # Every character of this edition is in the vocabulary.
    assert not (dataset.train.x == 1).any()
    assert not (dataset.test.y == 1).any()
