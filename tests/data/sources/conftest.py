"""Small raw files in the layout of the real ones, and a place apart for caches."""

import gzip
import io
import json
import sys

import numpy as np
import pytest
from PIL import Image

from fedjax_comp.data.sources import idx, mnist

NOBODY = "http://127.0.0.1:9/nothing"


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim])
    header += b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture
def idx_arrays():
    rng = np.random.default_rng(0)
    return {
        "train": (rng.integers(0, 256, (25, 28, 28), np.uint8), np.arange(25) % 10),
        "test": (rng.integers(0, 256, (7, 28, 28), np.uint8), np.arange(7)),
    }


@pytest.fixture
def raw_root(tmp_path, idx_arrays):
    """`raw/mnist` with the four files of a small data set of another content."""
    folder = tmp_path / "raw" / "mnist"
    folder.mkdir(parents=True)
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = idx_arrays[split]
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", labels.astype(np.uint8))
    return tmp_path / "raw"


@pytest.fixture
def small_mnist():
    """The source `mnist` for files of any content and a download that cannot be."""

    def read(folder):
        return idx.read_folder(folder, md5s={})

    return mnist.SOURCE._replace(
        read_raw=read,
        read_download=read,
        urls=dict.fromkeys(idx.FILES, NOBODY),
    )


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache; no raw files and no proxy from outside, no TensorFlow used."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("FEDJAX_COMP_RAW_DATA", raising=False)
    yield tmp_path / "cache" / "fedjax_comp"
    assert "tensorflow" not in sys.modules


@pytest.fixture
def tfrecord_dir(tmp_path):
    """A folder in which TensorFlow prepared `mnist` in the default format."""
    folder = tmp_path / "tfds" / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    info = {"name": "mnist", "version": "3.0.1", "fileFormat": "tfrecord"}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return tmp_path / "tfds"


@pytest.fixture
def official_dir(tmp_path, idx_arrays):
    """`mnist` as TFDS's own builder prepares it in array_record: a PNG a record."""
    import tensorflow_datasets as tfds

    class Mnist(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = "mnist"
        VERSION = tfds.core.Version("3.0.1")
        url_infos = None

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(28, 28, 1)),
                "label": tfds.features.ClassLabel(num_classes=10),
            }
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager):
            return {
                name: self._generate_examples(*idx_arrays[name])
                for name in ("train", "test")
            }

        def _generate_examples(self, images, labels):
            for i, (image, label) in enumerate(zip(images, labels, strict=True)):
                png = io.BytesIO()
                Image.fromarray(image).save(png, "png")
                png.seek(0)
                yield i, {"image": png, "label": int(label)}

    folder = tmp_path / "official"
    Mnist(data_dir=str(folder), file_format="array_record").download_and_prepare()
    return folder
