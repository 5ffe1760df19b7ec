import numpy as np
import pytest

from fedjax_comp.data.sources import femnist


def arrays():
    rng = np.random.default_rng(0)
    return {
        "images": rng.integers(0, 256, (8, 28, 28), np.uint8),
        "labels": rng.integers(0, 62, 8, np.uint8),
        "writer": np.array([0, 0, 0, 1, 2, 2, 2, 2], np.uint16),
        "is_test": np.array([0, 0, 1, 1, 0, 0, 0, 1], np.uint8),
        "writer_ids": np.array(["a", "b", "c"]),
    }


def test_splits_by_the_flag_and_keeps_the_writers(tmp_path):
    stored = arrays()
    np.savez(tmp_path / "femnist_writers.npz", **stored)
    splits = femnist.read_raw(tmp_path)
    rows = {"train": [0, 1, 4, 5, 6], "test": [2, 3, 7]}
    for name, chosen in rows.items():
        np.testing.assert_array_equal(
            splits[name].x, stored["images"][chosen][..., None]
        )
        np.testing.assert_array_equal(splits[name].y, stored["labels"][chosen])
        np.testing.assert_array_equal(splits[name].group, stored["writer"][chosen])
    # A writer with test images only is no training client.
    assert 1 not in splits["train"].group


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labels": np.zeros(7, np.uint8)}, "N labels, writers and is_test"),
        ({"images": np.zeros((8, 28, 28))}, r"got float64\[8, 28, 28\]"),
        ({"labels": np.uint8(7)}, r"got uint8\[8, 28, 28\], uint8\[\]"),
        ({"labels": np.zeros((8, 2), np.uint8)}, r"uint8\[8, 2\]"),
        ({"labels": np.full(8, 3.7)}, r"float64\[8\]"),
    ],
)
def test_damaged_files_are_refused(tmp_path, changed, message):
    np.savez(tmp_path / "femnist_writers.npz", **(arrays() | changed))
    with pytest.raises(ValueError, match=message):
        femnist.read_raw(tmp_path)


@pytest.mark.parametrize("keep", [0, 7, 100, -100])
def test_a_cut_file_is_refused(tmp_path, keep):
    path = tmp_path / "femnist_writers.npz"
    np.savez_compressed(path, **arrays())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="Expected the arrays images, labels"):
        femnist.read_raw(tmp_path)
