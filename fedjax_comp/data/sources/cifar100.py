"""CIFAR-100: 50,000 + 10,000 colour pictures of a hundred things, 32 x 32 x 3 uint8.

Labels are the fine ones, five to each of twenty kinds. Source: Krizhevsky 2009,
"Learning Multiple Layers of Features from Tiny Images". The raw file and the download
are the official binary archive.
"""

from pathlib import Path

from fedjax_comp.data.sources import cifar_archive
from fedjax_comp.data.sources.contract import Source, Splits

_ARCHIVE = "cifar-100-binary.tar.gz"
_MEMBERS = {
    "train": ("cifar-100-binary/train.bin",),
    "test": ("cifar-100-binary/test.bin",),
}


def read_archive(folder: Path) -> Splits:
    """Reads the official binary archive in `folder`.

    Raises:
      ValueError: as `cifar_archive.read`.
    """
    # A record begins with the kind, then the thing.
    return cifar_archive.read(folder / _ARCHIVE, _MEMBERS, label_bytes=2)


SOURCE = Source(
    name="cifar100",
    num_classes=100,
    scale=1 / 255,
    description="CIFAR-100. Krizhevsky, technical report, Toronto, 2009.",
    raw_files=(_ARCHIVE,),
    read_raw=read_archive,
    how_to_get=f"download https://www.cs.toronto.edu/~kriz/{_ARCHIVE}",
    urls={_ARCHIVE: f"https://www.cs.toronto.edu/~kriz/{_ARCHIVE}"},
    read_download=read_archive,
)
