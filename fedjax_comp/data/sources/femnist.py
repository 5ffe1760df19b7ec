"""FEMNIST: handwritten characters grouped by the person who wrote them.

62 classes (0-9 digits, 10-35 upper case, 36-61 lower case), 28 x 28 uint8, white
background = 255. The raw file `femnist_writers.npz` holds `images` uint8
`[N, 28, 28]`, `labels` uint8 `[N]`, `writer` uint16 `[N]` and `is_test` uint8 `[N]`.
A writer may have test images only: an unseen client.

Source: Caldas et al. 2018, arXiv 1812.01097 (LEAF); Cohen et al. 2017 (EMNIST).
"""

from pathlib import Path

import numpy as np

from fedjax_comp.data.sources.contract import Source, Split, Splits
from fedjax_comp.data.sources.npz import read_npz

_FILE = "femnist_writers.npz"


def read_raw(folder: Path) -> Splits:
    """Reads `femnist_writers.npz`; the groups are the writers.

    Raises:
      ValueError: if the file is damaged or an array has another shape or type.
    """
    path = folder / _FILE
    images, labels, writer, flag = read_npz(
        path, "images", "labels", "writer", "is_test"
    )
    count = len(images) if images.ndim else 0
    of_each = (labels, writer, flag)
    if (
        images.dtype != np.uint8
        or images.shape != (count, 28, 28)
        or any(x.shape != (count,) or x.dtype.kind not in "biu" for x in of_each)
    ):
        found = ", ".join(f"{x.dtype}{list(x.shape)}" for x in (images, *of_each))
        raise ValueError(
            f"Expected images uint8[N, 28, 28] and N labels, writers and is_test, all "
            f"integers, in {path}, got {found}."
        )
    is_test = flag.astype(bool)
    return {
        name: Split(
            images[rows][..., None],
            labels[rows].astype(np.int32),
            writer[rows].astype(np.int32),
        )
        for name, rows in (("train", ~is_test), ("test", is_test))
    }


SOURCE = Source(
    name="femnist",
    num_classes=62,
    scale=1 / 255,
    description="FEMNIST by writer. Caldas et al., arXiv 1812.01097, 2018.",
    raw_files=(_FILE,),
    read_raw=read_raw,
    how_to_get=(
        f"pack LEAF's femnist (https://github.com/TalwalkarLab/leaf) into {_FILE}, as "
        "described in fedjax_comp/data/sources/femnist.py"
    ),
)
