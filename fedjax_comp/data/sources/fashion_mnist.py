"""Fashion-MNIST: 60,000 + 10,000 pictures of clothing, 28 x 28 uint8.

Classes: T-shirt/top, trouser, pullover, dress, coat, sandal, shirt, sneaker, bag, ankle
boot. Source: Xiao, Rasul, Vollgraf 2017, arXiv 1708.07747, MIT licence. Checksums are
of the uncompressed content of the published archives.
"""

import functools

from fedjax_comp.data.sources import idx
from fedjax_comp.data.sources.contract import Source

MD5S = {
    "train-images-idx3-ubyte.gz": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte.gz": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte.gz": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte.gz": "15d484375f8d13e6eb1aabb0c3f46965",
}

_HOST = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
_read = functools.partial(idx.read_folder, md5s=MD5S)

SOURCE = Source(
    name="fashion_mnist",
    num_classes=10,
    scale=1 / 255,
    description="Fashion-MNIST. Xiao, Rasul, Vollgraf, arXiv 1708.07747, 2017. MIT.",
    raw_files=idx.FILES,
    read_raw=_read,
    how_to_get=(
        "download the four *-ubyte.gz files from "
        "https://github.com/zalandoresearch/fashion-mnist (data/fashion)"
    ),
    urls={name: f"{_HOST}/{name}" for name in idx.FILES},
    read_download=_read,
)
