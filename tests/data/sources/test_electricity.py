"""Electricity and the tables it is read with."""

import gzip

import numpy as np
import pytest

from fedjax_comp.data import load
from fedjax_comp.data.sources import DataUnavailable, electricity, load_source
from fedjax_comp.data.sources.table import codes, numbers, read_table

HEADER = ",".join((*electricity.FEATURES, "class"))


def write(folder, rows, header=HEADER):
    lines = [header, *(",".join(map(str, row)) for row in rows)]
    path = folder / "electricity.csv.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return path


def half_hours(days):
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(48 * days, 6)).round(6)
    y = rng.integers(0, 2, 48 * days)
    return x, y, [[*map(str, row), label] for row, label in zip(x, y, strict=True)]


def test_the_last_eighth_of_the_days_is_for_testing(tmp_path):
    x, y, rows = half_hours(days=17)
    write(tmp_path, rows)
    splits = electricity.read_raw(tmp_path)
    first_test = 15 * 48
    for name, part in (("train", slice(first_test)), ("test", slice(first_test, None))):
        split = splits[name]
        assert (split.x.dtype, split.y.dtype) == (np.float32, np.int32)
        np.testing.assert_array_equal(split.x, x[part].astype(np.float32))
        np.testing.assert_array_equal(split.y, y[part])


def test_it_is_looked_for_in_the_folder_of_tables(tmp_path, cache):
    folder = tmp_path / "raw" / "tabular"
    folder.mkdir(parents=True)
    x, _, rows = half_hours(days=8)
    source = electricity.SOURCE
    with pytest.raises(DataUnavailable, match=r"folder named tabular.*above it"):
        load_source(source, data_dir=None, raw_dir=tmp_path / "raw")
    write(folder, rows)
    for _ in range(2):  # from the raw file, then as prepared
        dataset = load_source(source, data_dir=None, raw_dir=tmp_path / "raw")
        np.testing.assert_array_equal(
            np.concatenate([dataset.train.x, dataset.test.x]), x.astype(np.float32)
        )


def test_the_real_file_is_as_published(raw_data_dir, cache):
    dataset = load("electricity", raw_dir=raw_data_dir)
    x = np.concatenate([dataset.train.x, dataset.test.x])
    y = np.concatenate([dataset.train.y, dataset.test.y])
    assert np.bincount(y).tolist() == [26_075, 19_237]
    assert x.shape == (45_312, 6)
    assert (x.min(), x.max()) == (0, 1)
    # In time order: the place in the day goes from 0 to 1 every 48 rows.
    np.testing.assert_allclose(
        x[:, 0], np.tile(np.arange(48) / 47, 944), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        ([[0, 0, 0, 0, 0, 0, 2]], HEADER, "class in .* one of 0, 1, got '2'"),
        ([[0, 0, 0, 0, 0, "?", 1]], HEADER, "numbers in .*transfer"),
        ([[0, 0, 0, 0, 0, "nan", 1]], HEADER, "finite numbers"),
        ([[0, 0, 0, 0, 0, 1]], HEADER, "7 values in row 1 .* got 6"),
        ([[0, 0]], "period,class", "a column nswprice"),
        ([], HEADER, "a header and rows"),
    ],
)
def test_damaged_tables_are_refused(tmp_path, rows, header, message):
    write(tmp_path, rows, header)
    with pytest.raises(ValueError, match=message):
        electricity.read_raw(tmp_path)


def test_a_cut_file_is_refused(tmp_path):
    path = write(tmp_path, half_hours(days=8)[2])
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"Expected a table in .*electricity"):
        electricity.read_raw(tmp_path)


def test_words_and_numbers_of_any_table(tmp_path):
    path = tmp_path / "people.csv"
    path.write_text("age, work, pay\n39, State gov, <=50K\n\n50, Private, >50K\n")
    table = read_table(path)
    assert numbers(table, ["age"]).tolist() == [[39.0], [50.0]]
    assert codes(table, "pay", ["<=50K", ">50K"]).tolist() == [0, 1]
    assert table.rows[0][1] == "State gov"
