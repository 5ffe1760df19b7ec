import io
import tarfile

import numpy as np
import pytest

from fedjax_comp.data import load
from fedjax_comp.data.sources import cifar100


def write(folder, **members):
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / "cifar-100-binary.tar.gz", "w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(f"cifar-100-binary/{name}.bin")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def records(seed, count):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
    fine = rng.integers(0, 100, count, np.uint8)
    pixels = images.transpose(0, 3, 1, 2).reshape(count, -1)
    return images, fine, np.hstack([fine[:, None] // 5, fine[:, None], pixels])


def test_the_archive_is_read_by_its_fine_labels(tmp_path):
    images, fine, content = records(0, 7)
    test = records(1, 3)
    write(tmp_path / "cifar100", train=content.tobytes(), test=test[2].tobytes())
    dataset = load("cifar100", raw_dir=tmp_path, data_dir=tmp_path / "prepared")
    np.testing.assert_array_equal(dataset.train.x, images)
    np.testing.assert_array_equal(dataset.train.y, fine)
    np.testing.assert_array_equal(dataset.test.x, test[0])
    assert (dataset.num_classes, dataset.scale) == (100, 1 / 255)


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ({"train": b"1"}, r"whole records in .*train\.bin, got 1 bytes"),
        ({"train": bytes(3074)}, r"Expected cifar-100-binary/test\.bin"),
    ],
)
def test_what_is_no_archive_of_it_is_refused(tmp_path, members, told):
    write(tmp_path, **members)
    with pytest.raises(ValueError, match=told):
        cifar100.read_archive(tmp_path)
