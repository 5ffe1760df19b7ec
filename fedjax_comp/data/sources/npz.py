"""NumPy's archives of arrays, read without pickle."""

import warnings
from pathlib import Path

import numpy as np

from fedjax_comp.wording import one_line


def read_npz(path: Path, *names: str) -> list[np.ndarray]:
    """The arrays called `names` in an `.npz` file.

    Args:
      path: the file.
      names: of the arrays.

    Returns:
      One array a name.

    Raises:
      ValueError: if the file is damaged, has no array of a name or one of objects.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "two.npz")
    >>> np.savez(path, a=np.arange(3), b=np.zeros(1))
    >>> read_npz(path, "a")
    [array([0, 1, 2])]
    """
    try:
        # Opened here, because NumPy leaves a file open that turns out to be damaged.
        # A header that it takes to be of Python 2 is a warning, and then read.
        with (
            warnings.catch_warnings(action="ignore"),
            path.open("rb") as file,
            np.load(file, allow_pickle=False) as arrays,
        ):
            found = [arrays[name] for name in names]
        # Of a member that does not begin as an array NumPy hands out the bytes.
        if not all(isinstance(array, np.ndarray) for array in found):
            raise ValueError("a member that is not an array")
        return found
    # NumPy, zipfile and the decompressors raise many unrelated types for a damaged
    # file, down to NotImplementedError, RuntimeError and MemoryError.
    except Exception as error:
        raise ValueError(
            f"Expected the arrays {', '.join(names)} in {path}: {one_line(error)}."
        ) from error
