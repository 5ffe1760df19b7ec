import functools
import http.server
import os
import threading

import numpy as np
import pytest

from fedjax_comp.data.sources import (
    NAMES,
    DataUnavailable,
    idx,
    load,
    load_source,
    loading,
    prepared,
    shakespeare,
)
from tests.data.sources.conftest import write_idx


def assert_is(dataset, idx_arrays):
    for split, (images, labels) in zip(
        (dataset.train, dataset.test), idx_arrays.values(), strict=True
    ):
        np.testing.assert_array_equal(split.x, images[..., None])
        np.testing.assert_array_equal(split.y, labels)


def prepared_versions(folder):
    return sorted(folder.rglob("dataset_info.json"))


def test_raw_files_are_prepared_once_in_the_cache(
    small_mnist, raw_root, idx_arrays, cache, caplog
):
    calls = []
    source = small_mnist._replace(
        read_raw=lambda folder: calls.append(folder) or small_mnist.read_raw(folder)
    )
    for _ in range(2):
        assert_is(load_source(source, data_dir=None, raw_dir=raw_root), idx_arrays)
    assert calls == [raw_root / "mnist"]
    assert len(prepared_versions(cache)) == 1
    # Without the raw files, the cache still has them, and says where.
    caplog.set_level("WARNING", "absl")
    assert_is(load_source(source, data_dir=None, raw_dir=None), idx_arrays)
    (kept,) = prepared_versions(cache)
    assert str(kept.parent) in caplog.text


def test_labels_outside_the_classes_are_refused_and_not_kept(
    small_mnist, raw_root, cache, tmp_path
):
    path = raw_root / "mnist" / "t10k-labels-idx1-ubyte.gz"
    write_idx(path, np.array([0, 1, 2, 10, 4, 5, 6], np.uint8))
    with pytest.raises(ValueError, match=r"/mnist: .* \[0, 10\), got 10 in example 3"):
        load_source(small_mnist, data_dir=None, raw_dir=raw_root)
    assert prepared_versions(cache) == []
    # What was prepared with them is no data either.
    wrong = small_mnist.read_raw(raw_root / "mnist")
    prepared.write(tmp_path / "data", small_mnist, wrong)
    with pytest.raises(DataUnavailable, match=r"got 10 in example 3.* prepare again"):
        load_source(small_mnist, data_dir=tmp_path / "data", raw_dir=None)


def test_other_raw_files_are_never_taken_for_the_same(
    small_mnist, raw_root, idx_arrays, cache
):
    load_source(small_mnist, data_dir=None, raw_dir=raw_root)
    folder = raw_root / "mnist"
    for kind in ("images-idx3", "labels-idx1"):
        (folder / f"train-{kind}-ubyte.gz").write_bytes(
            (folder / f"t10k-{kind}-ubyte.gz").read_bytes()
        )
    dataset = load_source(small_mnist, data_dir=None, raw_dir=raw_root)
    np.testing.assert_array_equal(dataset.train.y, idx_arrays["test"][1])
    assert len(prepared_versions(cache)) == 2


def test_raw_files_are_found_by_the_variable(
    small_mnist, raw_root, idx_arrays, cache, monkeypatch
):
    monkeypatch.setenv("FEDJAX_COMP_RAW_DATA", str(raw_root))
    assert_is(load_source(small_mnist, data_dir=None, raw_dir=None), idx_arrays)


def test_prepared_data_comes_first(small_mnist, raw_root, tmp_path, idx_arrays, cache):
    data_dir = tmp_path / "data"
    load_source(small_mnist, data_dir=data_dir, raw_dir=raw_root)
    assert prepared.find(data_dir, "mnist").readable is not None
    assert not cache.exists()
    untouched = small_mnist._replace(read_raw=lambda folder: pytest.fail("read raw"))
    dataset = load_source(untouched, data_dir=data_dir, raw_dir=raw_root)
    assert_is(dataset, idx_arrays)
    assert dataset.scale == 1 / 255


def test_official_data_is_prepared_data(small_mnist, official_dir, idx_arrays, cache):
    assert_is(load_source(small_mnist, data_dir=official_dir, raw_dir=None), idx_arrays)


def test_tfrecord_is_named_and_the_next_way_is_tried(
    small_mnist, tfrecord_dir, raw_root, idx_arrays, cache, caplog
):
    with pytest.raises(DataUnavailable) as error:
        load_source(small_mnist, data_dir=tfrecord_dir, raw_dir=None)
    assert 'file_format="array_record"' in str(error.value)
    assert str(tfrecord_dir / "mnist" / "3.0.1") in str(error.value)
    assert_is(
        load_source(small_mnist, data_dir=tfrecord_dir, raw_dir=raw_root), idx_arrays
    )


def test_the_error_names_three_ways_and_what_to_do(
    small_mnist, tmp_path, raw_root, cache
):
    with pytest.raises(DataUnavailable) as error:
        load_source(small_mnist, data_dir=None, raw_dir=None)
    message = str(error.value)
    assert "1. prepared data: no data_dir was given" in message
    assert "2. raw files: no raw_dir was given and FEDJAX_COMP_RAW_DATA" in message
    assert "3. download: http://127.0.0.1:9/nothing cannot be reached" in message
    assert small_mnist.how_to_get in message
    (raw_root / "mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataUnavailable, match=r"has no t10k-labels-idx1-ubyte\.gz"):
        load_source(small_mnist, data_dir=None, raw_dir=raw_root)
    with pytest.raises(DataUnavailable, match=r"there is no folder .*nowhere"):
        load_source(small_mnist, data_dir=tmp_path / "nowhere", raw_dir=None)
    with pytest.raises(DataUnavailable, match="download: not tried, since raw_dir"):
        load_source(small_mnist, data_dir=None, raw_dir=tmp_path / "nowhere")
    assert isinstance(error.value, ValueError)
    assert list(tmp_path.rglob(".preparing-*")) == []


def test_what_cannot_be_downloaded_says_so(cache):
    with pytest.raises(DataUnavailable, match="download: its public copies cannot"):
        load_source(shakespeare.SOURCE, data_dir=None, raw_dir=None)


def test_damaged_raw_files_are_not_passed_over(small_mnist, raw_root, cache):
    (raw_root / "mnist" / idx.FILES[0]).write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"Expected gzip in .*train-images"):
        load_source(small_mnist, data_dir=None, raw_dir=raw_root)


def test_a_place_that_cannot_be_written_costs_only_the_cache(
    small_mnist, raw_root, idx_arrays, cache
):
    cache.parent.mkdir(parents=True)
    cache.write_text("a file, where a folder would have to be")
    assert_is(load_source(small_mnist, data_dir=None, raw_dir=raw_root), idx_arrays)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        del arguments


@pytest.fixture
def server(raw_root):
    handler = functools.partial(Quiet, directory=raw_root / "mnist")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_a_download_is_prepared_once(small_mnist, server, idx_arrays, cache):
    source = small_mnist._replace(urls={n: f"{server}/{n}" for n in idx.FILES})
    assert_is(load_source(source, data_dir=None, raw_dir=None), idx_arrays)
    assert [path.name for path in cache.iterdir()] == ["download"]
    assert [p.name for p in (cache / "download").iterdir()] == ["fedjax_comp_mnist"]
    # The second time nobody is asked.
    assert_is(load_source(small_mnist, data_dir=None, raw_dir=None), idx_arrays)


def test_among_raw_files_in_the_cache_none_is_chosen(
    small_mnist, raw_root, server, idx_arrays, cache, caplog
):
    caplog.set_level("WARNING", "absl")
    path = raw_root / "mnist" / "train-labels-idx1-ubyte.gz"
    labels = idx_arrays["train"][1].astype(np.uint8)
    for _ in range(2):
        load_source(small_mnist, data_dir=None, raw_dir=raw_root)
        labels = (labels + 1) % 10
        write_idx(path, labels)
    with pytest.raises(DataUnavailable, match=r"3\. download: .* cannot be reached"):
        load_source(small_mnist, data_dir=None, raw_dir=None)
    assert "2 versions prepared from raw files" in caplog.text
    # What is downloaded comes before any of them, then and later.
    source = small_mnist._replace(urls={n: f"{server}/{n}" for n in idx.FILES})
    for one in (source, small_mnist):
        dataset = load_source(one, data_dir=None, raw_dir=None)
        np.testing.assert_array_equal(dataset.train.y, labels)


def test_a_download_that_fails_says_why(small_mnist, server, cache):
    urls = {name: f"{server}/{name}" for name in idx.FILES}
    source = small_mnist._replace(urls=urls | {idx.FILES[-1]: f"{server}/absent"})
    with pytest.raises(DataUnavailable, match=r"download: downloading .*404"):
        load_source(source, data_dir=None, raw_dir=None)
    assert prepared_versions(cache) == []


@pytest.mark.parametrize(
    ("name", "hint"), [("minst", "did you mean mnist?"), ("zzz", "german.")]
)
def test_an_unknown_name_gets_the_nearest(name, hint):
    with pytest.raises(ValueError, match=f"dataset={name} in digits, mnist") as error:
        load(name)
    assert str(error.value).endswith(hint)


def test_paths_may_be_strings_and_empty(raw_data_dir, cache):
    assert set(NAMES) >= {"digits", "mnist", "cifar10", "femnist", "shakespeare"}
    assert load("digits", data_dir="", raw_dir="").num_classes == 10
    assert len(load("femnist", data_dir="", raw_dir=str(raw_data_dir)).train.y) == 14708


def test_the_cache_is_where_the_environment_says(cache, monkeypatch):
    assert loading.cache_dir() == cache
    monkeypatch.delenv("XDG_CACHE_HOME")
    home = os.path.expanduser("~")
    assert str(loading.cache_dir()) == os.path.join(home, ".cache", "fedjax_comp")
