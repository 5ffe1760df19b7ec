"""NumPy's archives of arrays, read without pickle."""

from pathlib import Path

import numpy as np


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
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return [arrays[name] for name in names]
    # NumPy, zipfile and the decompressors raise many unrelated types for a damaged
    # file, down to NotImplementedError, RuntimeError and MemoryError.
    except Exception as error:
        raise ValueError(
            f"Expected the arrays {', '.join(names)} in {path}: "
            f"{' '.join(str(error).split()) or type(error).__name__}"
        ) from error
