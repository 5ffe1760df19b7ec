"""The idx format of MNIST and Fashion-MNIST, gzipped.

Big-endian: two zero bytes, a type (8 is uint8), the number of axes, one uint32 an axis,
then the values. Source: LeCun, Cortes, Burges, "The MNIST database", 1998.
"""

import gzip
import hashlib
import math
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fedjax_comp.data.sources.contract import Split, Splits
from fedjax_comp.wording import one_line

IMAGE_SHAPE = (28, 28)
MOST_AXES = 32

FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


def read_idx(path: Path, *, md5: str | None = None) -> np.ndarray:
    """Reads one gzipped idx file of unsigned bytes.

    Args:
      path: the file.
      md5: of the *uncompressed* content, since a gzip header holds a time stamp and
        archives with the same content differ; None does not check.

    Returns:
      uint8 array of the shape in the header.

    Raises:
      ValueError: if the file cannot be read, is not gzip, not idx, truncated, or of
        another content.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "two.gz")
    >>> header = bytes([0, 0, 8, 1]) + (2).to_bytes(4, "big")
    >>> _ = path.write_bytes(gzip.compress(header + bytes([7, 9])))
    >>> read_idx(path)
    array([7, 9], dtype=uint8)
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"Expected gzip in {path}: {one_line(error)}.") from error
    if md5 is not None:
        found = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if found != md5:
            raise ValueError(
                f"Expected md5={md5} of the uncompressed content of {path}, got "
                f"{found}: the file is damaged or another data set."
            )
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise ValueError(f"Expected an idx file of unsigned bytes in {path}.")
    if not 1 <= content[3] <= MOST_AXES:
        raise ValueError(
            f"Expected 1 to {MOST_AXES} axes in the header of {path}, got {content[3]}."
        )
    header = 4 + 4 * content[3]
    if len(content) < header:
        raise ValueError(f"Expected a header of {header} bytes in {path}.")
    shape = np.frombuffer(content[4:header], ">u4").astype(np.int64)
    values = np.frombuffer(content, np.uint8, offset=header)
    # In Python's numbers, since the product of damaged sizes may be any.
    expected = math.prod(shape.tolist())
    if values.size != expected:
        raise ValueError(
            f"Expected {expected} bytes of values in {path}, got {values.size}."
        )
    try:
        return values.reshape(shape)
    except ValueError as error:  # no values, and sizes beyond all memory
        raise ValueError(
            f"Expected sizes of an array in {path}: {one_line(error)}."
        ) from error


def read_folder(folder: Path, *, md5s: Mapping[str, str]) -> Splits:
    """Reads the four files of an MNIST-like data set.

    Args:
      folder: where `FILES` are.
      md5s: file name to md5 of the uncompressed content; a missing name is not checked.

    Returns:
      Splits with `x` uint8 `[N, 28, 28, 1]` and `y` int32 `[N]`.

    Raises:
      ValueError: if a file is damaged, images are not 28 x 28, or images and labels
        differ in number.
    """
    splits = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = (
            read_idx(folder / name, md5=md5s.get(name))
            for name in FILES
            if name.startswith(prefix)
        )
        if images.shape[1:] != IMAGE_SHAPE:
            raise ValueError(
                f"Expected {split} images [N, {', '.join(map(str, IMAGE_SHAPE))}] in "
                f"{folder}, got {list(images.shape)}."
            )
        if labels.shape != images.shape[:1]:
            raise ValueError(
                f"Expected one label for each {split} image in {folder}, got labels "
                f"{list(labels.shape)} and images {list(images.shape)}."
            )
        splits[split] = Split(images[..., None], labels.astype(np.int32))
    return splits
