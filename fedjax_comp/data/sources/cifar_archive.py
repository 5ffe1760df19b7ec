"""The official binary archives of CIFAR: records of label bytes and 3,072 pixel bytes.

A picture is `[3, 32, 32]` uint8, red, green, blue, row after row.
"""

import lzma
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fedjax_comp.data.sources.contract import Split
from fedjax_comp.wording import one_line

_PIXELS = 3 * 32 * 32


def read(
    path: Path, members: Mapping[str, Sequence[str]], *, label_bytes: int = 1
) -> dict[str, Split]:
    """Reads the records of some members of an archive.

    Args:
      path: the archive.
      members: split to the names of its members, whose records follow one another.
      label_bytes: label bytes of a record, of which the last is the class.

    Returns:
      Splits of `x` uint8 `[N, 32, 32, 3]` and `y` int32 `[N]`.

    Raises:
      ValueError: if the archive is damaged, or a member is missing or does not hold
        whole records.
    """
    try:
        with tarfile.open(path) as archive:
            return {
                split: _joined([_records(archive, n, label_bytes) for n in names])
                for split, names in members.items()
            }
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise ValueError(
            f"Expected an archive in {path}: {one_line(error)}."
        ) from error


def _records(archive: tarfile.TarFile, name: str, label_bytes: int) -> np.ndarray:
    size = label_bytes + _PIXELS
    try:
        member = archive.extractfile(name)
    except KeyError as error:
        raise ValueError(f"Expected {name} in the archive.") from error
    content = member.read() if member is not None else b""
    if not content or len(content) % size:
        raise ValueError(f"Expected whole records in {name}, got {len(content)} bytes.")
    return np.frombuffer(content, np.uint8).reshape(-1, size)[:, label_bytes - 1 :]


def _joined(parts: Sequence[np.ndarray]) -> Split:
    records = np.concatenate(parts)
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Split(np.ascontiguousarray(images), records[:, 0].astype(np.int32))
