"""Readers of data sets."""

import functools
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fedjax_comp.data.sources import (
    DataUnavailable,
    Split,
    cifar10,
    femnist,
    idx,
    prepared,
    shakespeare,
    table,
)
from tests.fuzz.mutations import (
    Mutate,
    inside_gzip,
    inside_zip,
    mutate_bytes,
    mutate_json,
    mutate_json_lines,
    mutate_text,
)
from tests.fuzz.parser import Parser, in_file, scratch_folder, tar_gz


def _split(split: Split) -> Split:
    assert len(split.x) == len(split.y)
    assert split.y.dtype == np.int32
    return split


def _npz(**arrays: np.ndarray) -> bytes:
    made = io.BytesIO()
    np.savez(made, **arrays)
    return made.getvalue()


def _idx(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim])
    head += b"".join(size.to_bytes(4, "big") for size in array.shape)
    return gzip.compress(head + array.tobytes(), 1, mtime=0)


def data_sets() -> dict[str, Parser]:
    rng = np.random.default_rng(0)
    invalid = (ValueError,)
    folder = scratch_folder("data")
    images = _idx(rng.integers(0, 256, (3, 28, 28), np.uint8))
    labels = _idx(np.arange(3, dtype=np.uint8))
    # A folder for each of the two, so that the other file is whole.
    four = {name: images if "images" in name else labels for name in idx.FILES}
    digits = [scratch_folder(f"idx-{i}") for i in range(2)]
    for place in digits:
        for name, content in four.items():
            (place / name).write_bytes(content)
    batch = _npz(
        delta=rng.integers(0, 256, (2, 3, 32, 32), np.uint8),
        labels=np.array([3, 9], np.uint8),
        exact=np.array([True, False]),
    )
    (folder / "test_batch.npz").write_bytes(batch)
    (folder / "data_batch_1.npz").write_bytes(batch)
    writers = _npz(
        images=rng.integers(0, 256, (3, 28, 28), np.uint8),
        labels=np.arange(3, dtype=np.uint8),
        writer=np.arange(3, dtype=np.uint16),
        is_test=np.array([0, 1, 0], np.uint8),
    )
    record = bytes(1 + 3 * 32 * 32)
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    archive = tar_gz({f"cifar-10-batches-bin/{name}": record for name in names})
    speech = {"play": "p", "speaker": "s", "lines": ["to be", "or not", "to be"]}
    speeches = gzip.compress(2 * (json.dumps(speech).encode() + b"\n"), mtime=0)

    def file(name: str, read: Callable[[Path], Any]) -> Callable[[bytes], Any]:
        return in_file(folder / name, lambda: read(folder))

    def every(read: Callable[[Path], Any]) -> Callable[[Path], Any]:
        return lambda folder: [_split(x) for x in read(folder).values()]

    def read_small(folder: Path) -> np.ndarray:
        read = table.read_table(folder / "small.csv")
        table.codes(read, "class", ("low", "high"))
        values = table.numbers(read, ("a", "b"))
        assert np.isfinite(values).all()
        return values

    def read_digits(place: int) -> Callable[[bytes], Any]:
        folder = digits[place]
        read = every(functools.partial(idx.read_folder, md5s={}))
        return in_file(folder / idx.FILES[place], lambda: read(folder))

    in_gzip, in_zip = inside_gzip(mutate_bytes), inside_zip(mutate_bytes)
    csv = b"a,b,class\n1,2.5,low\n-3,4e2,high\n"
    return {
        "idx images": Parser(images, read_digits(0), invalid, in_gzip),
        "idx labels": Parser(labels, read_digits(1), invalid, in_gzip),
        "cifar10 npz": Parser(
            batch, file("test_batch.npz", every(cifar10.read_raw)), invalid, in_zip
        ),
        "cifar10 archive": Parser(
            archive,
            file("cifar-10-binary.tar.gz", every(cifar10.read_archive)),
            invalid,
            in_gzip,
        ),
        "femnist npz": Parser(
            writers,
            file("femnist_writers.npz", every(femnist.read_raw)),
            invalid,
            in_zip,
        ),
        "table": Parser(csv, file("small.csv", read_small), invalid, mutate_text),
        "speeches": Parser(
            speeches,
            file("speeches.jsonl.gz", every(shakespeare.read_raw)),
            invalid,
            inside_gzip(mutate_json_lines),
        ),
    }


def prepared_parsers(folder: Path, version: Path) -> dict[str, Parser]:
    """Those of prepared data, of which one must have been written to `folder`.

    They need TensorFlow Datasets, which takes seconds to import.

    Args:
      folder: a TFDS data folder with the data set `mnist`.
      version: the folder of its prepared version.
    """

    def parser(path: Path, mutate: Mutate) -> Parser:
        valid = path.read_bytes()

        def read() -> Any:
            try:
                found = prepared.find(folder, "mnist")
                if found.readable is None:
                    raise DataUnavailable("in another format")
                return [_split(x) for x in prepared.read(found.readable).values()]
            finally:
                path.write_bytes(valid)

        return Parser(valid, in_file(path, read), (DataUnavailable,), mutate)

    records = min(version.glob("*train*array_record*"))
    return {
        "dataset_info": parser(version / "dataset_info.json", mutate_json),
        "features": parser(version / "features.json", mutate_json),
        "records": parser(records, mutate_bytes),
    }
