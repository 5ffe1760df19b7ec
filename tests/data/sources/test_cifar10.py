import io
import tarfile

import numpy as np
import pytest

from fedjax_comp.data.sources import cifar10


def to_delta(images):
    """The transform written down as it is described, for `[N, 32, 32, 3]`."""
    channels = images.transpose(0, 3, 1, 2).astype(int)
    channels[:, 0] -= channels[:, 1]
    channels[:, 2] -= channels[:, 1]
    return (np.diff(channels, axis=-1, prepend=0) % 256).astype(np.uint8)


def batch(seed, count=6):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
    return images, rng.integers(0, 10, count, np.uint8), np.arange(count) != 2


def write(folder, name, images, labels, exact):
    np.savez(folder / name, delta=to_delta(images), labels=labels, exact=exact)


def test_takes_the_batches_there_are_without_inexact_images(tmp_path):
    stored = {name: batch(i) for i, name in enumerate("145")}
    for name, arrays in stored.items():
        write(tmp_path, f"data_batch_{name}.npz", *arrays)
    write(tmp_path, "data_batch_9.npz", *batch(9))
    write(tmp_path, "test_batch.npz", *batch(3, 4))
    splits = cifar10.read_raw(tmp_path)
    for split, arrays in (
        ("train", [stored[name] for name in "145"]),
        ("test", [batch(3, 4)]),
    ):
        images, labels, exact = (
            np.concatenate(part) for part in zip(*arrays, strict=True)
        )
        np.testing.assert_array_equal(splits[split].x, images[exact])
        np.testing.assert_array_equal(splits[split].y, labels[exact])
        assert splits[split].y.dtype == np.int32


def test_reads_the_official_archive(tmp_path):
    stored = {f"data_batch_{i}.bin": batch(i) for i in range(1, 6)}
    stored["test_batch.bin"] = batch(6)
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as archive:
        for name, (images, labels, _) in stored.items():
            pixels = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
            content = np.hstack([labels[:, None], pixels]).tobytes()
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    splits = cifar10.read_archive(tmp_path)
    assert splits["train"].x.shape == (30, 32, 32, 3)
    np.testing.assert_array_equal(splits["train"].x[6:12], batch(2)[0])
    np.testing.assert_array_equal(splits["test"].x, batch(6)[0])
    np.testing.assert_array_equal(splits["test"].y, batch(6)[1])


def test_an_incomplete_archive_is_refused(tmp_path):
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz"):
        pass
    with pytest.raises(ValueError, match=r"data_batch_1\.bin"):
        cifar10.read_archive(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x1f\x8b\x08" + bytes(20)])
def test_a_damaged_archive_is_refused(tmp_path, content):
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(content)
    with pytest.raises(ValueError, match="Expected an archive in"):
        cifar10.read_archive(tmp_path)
    with pytest.raises(ValueError, match="data_batch"):
        cifar10.read_raw(tmp_path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"delta": np.zeros(3)}, "Expected the arrays delta, labels, exact"),
        (
            {
                "delta": np.zeros((2, 3, 32, 32), np.uint8),
                "labels": np.zeros(3, np.uint8),
                "exact": np.ones(3, bool),
            },
            r"labels uint8\[2\] and exact bool\[2\].*, uint8\[3\] and bool\[3\]",
        ),
        (
            {
                "delta": np.zeros((1, 3, 32, 32), np.uint8),
                "labels": np.uint8(3),
                "exact": np.ones(1, bool),
            },
            r"labels uint8\[1\].*, uint8\[\] and bool\[1\]",
        ),
        (
            {
                "delta": np.zeros((1, 3, 32, 32), np.uint8),
                "labels": np.array([3.7]),
                "exact": np.ones(1, bool),
            },
            r"labels uint8\[1\].*, float64\[1\]",
        ),
    ],
)
def test_damaged_batches_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "data_batch_1.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        cifar10.read_raw(tmp_path)
