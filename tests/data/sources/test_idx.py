import gzip
import hashlib

import numpy as np
import pytest

from fedjax_comp.data.sources import idx, mnist
from tests.data.sources.conftest import write_idx


def test_reads_what_was_written(raw_root, idx_arrays):
    splits = idx.read_folder(raw_root / "mnist", md5s={})
    for name, (images, labels) in idx_arrays.items():
        assert splits[name].group is None
        assert splits[name].y.dtype == np.int32
        np.testing.assert_array_equal(splits[name].x, images[..., None])
        np.testing.assert_array_equal(splits[name].y, labels)


def test_the_checksum_is_of_the_uncompressed_content(raw_root):
    path = raw_root / "mnist" / "t10k-labels-idx1-ubyte.gz"
    content = gzip.decompress(path.read_bytes())
    md5 = hashlib.md5(content).hexdigest()
    # Another compression of the same content is another archive of the same data.
    path.write_bytes(gzip.compress(content, compresslevel=1, mtime=1))
    assert len(idx.read_idx(path, md5=md5)) == 7
    with pytest.raises(ValueError, match=f"md5=0000 .*{md5}"):
        idx.read_idx(path, md5="0000")


def test_mnist_of_another_content_is_refused(raw_root):
    with pytest.raises(ValueError, match=r"train-images.*damaged or another data set"):
        mnist.SOURCE.read_raw(raw_root / "mnist")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not gzip", "Expected gzip"),
        (gzip.compress(b"\x00\x00\x08\x01" + bytes(4) + b"xx")[:-9], "Expected gzip"),
        (gzip.compress(b""), "Expected an idx file"),
        (gzip.compress(b"\x00\x00\x0d\x01\x00\x00\x00\x01"), "Expected an idx file"),
        (gzip.compress(b"\x00\x00\x08\x03\x00\x00"), "header of 16 bytes"),
        (gzip.compress(b"\x00\x00\x08\x01\x00\x00\x00\x05ab"), "Expected 5 bytes"),
        (gzip.compress(b"\x00\x00\x08\x01\xff\xff\xff\xffab"), "got 2"),
        (gzip.compress(b"\x00\x00\x08\x00x"), "1 to 32 axes"),
        (gzip.compress(b"\x00\x00\x08\xc8" + bytes(800)), "1 to 32 axes"),
        (gzip.compress(b"\x00\x00\x08\x03" + bytes(4) + b"\xff" * 8), "sizes of an"),
    ],
    ids=[
        "no gzip",
        "cut",
        "empty",
        "floats",
        "no sizes",
        "too short",
        "huge",
        "no axes",
        "many axes",
        "huge and empty",
    ],
)
def test_damaged_files_are_refused(tmp_path, content, message):
    path = tmp_path / "file.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        idx.read_idx(path)


def test_labels_must_match_images(raw_root):
    folder = raw_root / "mnist"
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(
        (folder / "t10k-labels-idx1-ubyte.gz").read_bytes()
    )
    with pytest.raises(ValueError, match=r"each train image .*\[7\].*\[25, 28, 28\]"):
        idx.read_folder(folder, md5s={})


@pytest.mark.parametrize("shape", [(7, 32, 32), (7, 784), (7, 28, 28, 1)])
def test_images_must_be_28_by_28(raw_root, shape):
    folder = raw_root / "mnist"
    write_idx(folder / "t10k-images-idx3-ubyte.gz", np.zeros(shape, np.uint8))
    found = ", ".join(map(str, shape))
    with pytest.raises(ValueError, match=rf"test images \[N, 28, 28\].*\[{found}\]"):
        idx.read_folder(folder, md5s={})
