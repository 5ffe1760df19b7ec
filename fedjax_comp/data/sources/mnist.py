"""MNIST: 60,000 + 10,000 handwritten digits, 28 x 28 uint8.

Source: LeCun, Bottou, Bengio, Haffner 1998, "Gradient-based learning applied to
document recognition". Checksums are the published ones of the uncompressed files.
"""

import functools

from fedjax_comp.data.sources import idx
from fedjax_comp.data.sources.contract import Source

MD5S = {
    "train-images-idx3-ubyte.gz": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte.gz": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte.gz": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte.gz": "27ae3e4e09519cfbb04c329615203637",
}

_read = functools.partial(idx.read_folder, md5s=MD5S)

SOURCE = Source(
    name="mnist",
    num_classes=10,
    scale=1 / 255,
    description="MNIST. LeCun, Bottou, Bengio, Haffner, Proc. IEEE 86(11), 1998.",
    raw_files=idx.FILES,
    read_raw=_read,
    how_to_get=(
        "download the four *-ubyte.gz files of MNIST, for example from "
        "https://storage.googleapis.com/cvdf-datasets/mnist/"
    ),
    urls={
        name: f"https://storage.googleapis.com/cvdf-datasets/mnist/{name}"
        for name in idx.FILES
    },
    read_download=_read,
)
