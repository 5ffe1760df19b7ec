import json
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from fedjax_comp.data.sources import DataUnavailable, Split, prepared


def splits_of(count, seed=0):
    rng = np.random.default_rng(seed)
    # Wide rows, so that a split is more than one block.
    x = rng.integers(0, 256, (count, 100_000), np.uint8)
    y = rng.integers(0, 10, (count, 3)).astype(np.int32)
    return Split(x, y, np.arange(count, dtype=np.int32))


@pytest.fixture
def splits():
    return {"train": splits_of(25), "test": splits_of(1, 1)}


def assert_same(found, expected):
    for name, split in expected.items():
        for ours, theirs in zip(found[name], split, strict=True):
            if theirs is None:
                assert ours is None
            else:
                assert ours.dtype == theirs.dtype
                np.testing.assert_array_equal(ours, theirs)


def test_reads_back_what_was_written(tmp_path, small_mnist, splits, cache):
    folder = prepared.write(tmp_path, small_mnist, splits)
    assert prepared.find(tmp_path, "mnist").readable == folder
    assert prepared.find(folder, "mnist").readable == folder
    assert prepared.find(tmp_path, "cifar10") == prepared.Found(None, ())
    assert_same(prepared.read(folder), splits)


def test_any_tfds_user_can_open_it(tmp_path, small_mnist, splits, cache):
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(
        str(prepared.write(tmp_path, small_mnist, splits))
    )
    blocks = builder.as_data_source("train")
    assert len(blocks) == 3
    assert sum(len(block["y"]) for block in blocks) == 25
    assert builder.info.description == small_mnist.description


def test_the_first_of_two_writers_wins(tmp_path, small_mnist, splits, cache):
    folder = prepared.write(tmp_path, small_mnist, splits)
    other = {"train": splits_of(3, 5), "test": splits_of(2, 6)}
    assert prepared.write(tmp_path, small_mnist, other) == folder
    assert_same(prepared.read(folder), splits)
    assert [path.name for path in tmp_path.iterdir() if path.name[0] == "."] == []


def test_a_killed_preparation_leaves_nothing_half_made(
    tmp_path, small_mnist, splits, cache
):
    program = textwrap.dedent(
        f"""
        import os, signal
        import numpy as np
        from fedjax_comp.data.sources import SOURCES, Split, prepared
        from pathlib import Path

        # Everything is written; killed in the moment before it would count.
        os.rename = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
        split = Split(np.zeros((9, 4), np.uint8), np.zeros(9, np.int32))
        prepared.write(
            Path({str(tmp_path / "data")!r}),
            SOURCES["mnist"],
            {{"train": split, "test": split}},
        )
        """
    )
    killed = subprocess.run([sys.executable, "-c", program], check=False)
    assert killed.returncode == -signal.SIGKILL
    data_dir = tmp_path / "data"
    left = list(data_dir.iterdir())
    assert [path.name.startswith(".preparing-") for path in left] == [True]
    assert prepared.find(data_dir, "mnist") == prepared.Found(None, ())
    # What it left goes when it is a day old, and never stands in the way.
    prepared.write(data_dir, small_mnist, splits)
    assert left[0].exists()
    os.utime(left[0], (0, 0))
    with prepared.unfinished(data_dir):
        assert not left[0].exists()
    assert_same(prepared.read(prepared.find(data_dir, "mnist").readable), splits)


def test_a_failed_preparation_leaves_no_folder_behind(tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    for data_dir in (tmp_path / "mistyped" / "below", kept):
        with pytest.raises(OSError, match="no network"), prepared.unfinished(data_dir):
            raise OSError("no network")
    assert list(tmp_path.iterdir()) == [kept]


def test_reads_what_tfds_prepared_itself(official_dir, idx_arrays, cache):
    folder = prepared.find(official_dir, "mnist").readable
    assert folder == official_dir / "mnist" / "3.0.1"
    expected = {
        name: Split(images[..., None], labels.astype(np.int32))
        for name, (images, labels) in idx_arrays.items()
    }
    assert_same(prepared.read(folder), expected)


@pytest.mark.parametrize("file_format", ["tfrecord", "riegeli", None])
def test_other_formats_are_found_but_not_taken(tfrecord_dir, file_format):
    folder = tfrecord_dir / "mnist" / "3.0.1"
    info = {"fileFormat": file_format} if file_format else {}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    assert prepared.find(tfrecord_dir, "mnist") == prepared.Found(None, (folder,))


def test_damaged_data_says_what_to_do(tmp_path, small_mnist, splits, cache):
    folder = prepared.write(tmp_path, small_mnist, splits)
    for path in folder.glob("*array_record*"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataUnavailable, match=r"Delete that folder"):
        prepared.read(folder)
