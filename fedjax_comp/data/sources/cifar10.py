"""CIFAR-10: 50,000 + 10,000 colour pictures of ten things, 32 x 32 x 3 uint8.

Classes: airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck.
Source: Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images".

Raw files are `data_batch_<i>.npz` (whichever are there) and `test_batch.npz`, with

* `delta` uint8 `[N, 3, 32, 32]`: the pixels after a reversible transform that makes
  them compress better, undone by `undo_delta`;
* `labels` uint8 `[N]`;
* `exact` bool `[N]`: False where a lossy copy stands in for the original pixels. Those
  images are dropped.

A download is the official binary archive, which has all the images as they are.
"""

import re
from pathlib import Path

import numpy as np
from absl import logging

from fedjax_comp.data.sources import cifar_archive
from fedjax_comp.data.sources.contract import Source, Split, Splits
from fedjax_comp.data.sources.npz import read_npz

_ARCHIVE = "cifar-10-binary.tar.gz"
_BATCH = re.compile(r"data_batch_[1-5]\.npz")
_MEMBERS = {
    "train": tuple(f"cifar-10-batches-bin/data_batch_{i}.bin" for i in range(1, 6)),
    "test": ("cifar-10-batches-bin/test_batch.bin",),
}


def undo_delta(delta: np.ndarray) -> np.ndarray:
    """Pixels from differences, modulo 256.

    `y = cumsum(delta)` along the last axis; channel 1 (green) is then added to channels
    0 and 2.

    Args:
      delta: uint8 `[N, 3, H, W]`.

    Returns:
      uint8 `[N, H, W, 3]`, red, green, blue.

    >>> undo_delta(np.array([[[[1, 1]], [[2, 0]], [[255, 0]]]], np.uint8)).tolist()
    [[[[3, 2, 1], [4, 2, 1]]]]
    """
    pixels = np.cumsum(delta, axis=-1, dtype=np.uint8)
    pixels[:, 0] += pixels[:, 1]
    pixels[:, 2] += pixels[:, 1]
    return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))


def read_raw(folder: Path) -> Splits:
    """Reads the `.npz` files of `folder`, without the images that are not exact.

    Raises:
      ValueError: if there is no batch, a file is damaged or an array has another shape
        or type.
    """
    batches = sorted(p for p in folder.iterdir() if _BATCH.fullmatch(p.name))
    if not batches:
        raise ValueError(f"Expected {_BATCH.pattern} in {folder}.")
    parts = [_read_batch(path) for path in batches]
    train = Split(
        np.concatenate([part.x for part in parts]),
        np.concatenate([part.y for part in parts]),
    )
    logging.info(
        "cifar10: %d training examples from %d of 5 batches.", len(train.y), len(parts)
    )
    return {"train": train, "test": _read_batch(folder / "test_batch.npz")}


def read_archive(folder: Path) -> Splits:
    """Reads the official binary archive in `folder`.

    Raises:
      ValueError: as `cifar_archive.read`.
    """
    return cifar_archive.read(folder / _ARCHIVE, _MEMBERS)


def _read_batch(path: Path) -> Split:
    delta, labels, exact = read_npz(path, "delta", "labels", "exact")
    count = len(delta) if delta.ndim else 0
    if (
        delta.dtype != np.uint8
        or delta.shape != (count, 3, 32, 32)
        or labels.dtype != np.uint8
        or labels.shape != (count,)
        or exact.dtype != np.bool_
        or exact.shape != (count,)
    ):
        raise ValueError(
            f"Expected delta uint8[{count}, 3, 32, 32], labels uint8[{count}] and "
            f"exact bool[{count}] in {path}, got {delta.dtype}{list(delta.shape)}, "
            f"{labels.dtype}{list(labels.shape)} and {exact.dtype}{list(exact.shape)}."
        )
    if not exact.all():
        logging.info("cifar10: dropped %d inexact images of %s.", (~exact).sum(), path)
    return Split(undo_delta(delta[exact]), labels[exact].astype(np.int32))


SOURCE = Source(
    name="cifar10",
    num_classes=10,
    scale=1 / 255,
    description="CIFAR-10. Krizhevsky, technical report, Toronto, 2009.",
    raw_files=("data_batch_[1-5].npz", "test_batch.npz"),
    read_raw=read_raw,
    how_to_get=(
        f"let the download run where https://www.cs.toronto.edu/~kriz/{_ARCHIVE} can "
        "be reached, and copy the prepared folder"
    ),
    urls={_ARCHIVE: f"https://www.cs.toronto.edu/~kriz/{_ARCHIVE}"},
    read_download=read_archive,
)
