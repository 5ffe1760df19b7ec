"""Tables of people and patients: what is read of small files, and of real ones."""

import gzip

import numpy as np
import pytest

from fedjax_comp.data import load
from fedjax_comp.data.sources import adult, german, wdbc
from fedjax_comp.data.sources.table import numbers, one_hot, read_table, standardised

HEADER = [*adult.NUMBERS, *adult.CATEGORIES, "classification"]


def write_adult(folder, people, split):
    lines = [", ".join(HEADER), *(", ".join(map(str, person)) for person in people)]
    path = folder / f"adult.{split}.csv.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))


def person(age, label, workclass="?"):
    words = [workclass, *(words[-1] for words in list(adult.CATEGORIES.values())[1:])]
    return [age, 1, 2, 3, 4, 5, *words, label]


def test_numbers_are_standardised_by_the_training_examples(tmp_path):
    write_adult(tmp_path, [person(30, "<=50K"), person(50, ">50K")], "data")
    write_adult(tmp_path, [person(60, ">50K", "Private")], "test")
    splits = adult.read_raw(tmp_path)
    assert splits["train"].x.shape == (2, 108)
    # Mean 40, deviation 10; constant columns are only centred.
    np.testing.assert_allclose(splits["train"].x[:, 0], [-1, 1])
    np.testing.assert_allclose(splits["test"].x[0, :6], [2, 0, 0, 0, 0, 0])
    assert splits["train"].y.tolist() == [0, 1]
    # A missing value is the first category, and every category is one-hot.
    place = len(adult.NUMBERS)
    words = adult.CATEGORIES["workclass"]
    assert splits["train"].x[0, place + words.index("?")] == 1
    assert splits["test"].x[0, place + words.index("Private")] == 1
    assert splits["train"].x[:, place:].sum(axis=1).tolist() == [8, 8]


def test_damaged_files_are_refused(tmp_path):
    write_adult(tmp_path, [person(30, "maybe")], "data")
    write_adult(tmp_path, [person(30, ">50K")], "test")
    with pytest.raises(ValueError, match=r"classification .* got 'maybe'"):
        adult.read_raw(tmp_path)
    (tmp_path / "wdbc.csv").write_text("id,diagnosis,radius\n1,M,2.0\n")
    with pytest.raises(ValueError, match=r"30 features .* got 1"):
        wdbc.read_raw(tmp_path)


def test_every_fifth_patient_is_for_testing(tmp_path):
    names = ",".join(f"f{i}" for i in range(30))
    rows = [f"{i},{'MB'[i % 2]},{','.join([str(i)] * 30)}" for i in range(11)]
    path = tmp_path / "wdbc.csv"
    path.write_text("\n".join([f"id,diagnosis,{names}", *rows]))
    splits = wdbc.read_raw(tmp_path)
    assert splits["test"].y.tolist() == [1, 0]  # the fifth and the tenth
    kept = np.array([0, 1, 2, 3, 5, 6, 7, 8, 10])
    expected = (np.array([4, 9]) - kept.mean()) / kept.std()
    np.testing.assert_allclose(splits["test"].x[:, 7], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n1,x\n", "Expected numbers in a, b .* 'x'"),
        ("a,b\n1,2\n1,nan\n", "got nan in b, row 2"),
        ("a,b\n1,2\n-1e39,4\n", r"got -1e\+39 in a, row 2"),
        ("a,b\n1,2\n1," + "9" * 5000, "got inf in b, row 2"),
        ("a,a\n1,2\n", "column 'a' .* once"),
        ("a\n" + "x" * 200_000, "Expected a table in .* field larger"),
    ],
)
def test_what_is_no_table_of_numbers(tmp_path, text, message):
    path = tmp_path / "small.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        numbers(read_table(path), ("a", "b"))
    assert len(str(error.value)) < 300
    assert "\n" not in str(error.value)


def test_tools_of_tables(tmp_path):
    path = tmp_path / "small.csv"
    path.write_text("a,b\nx,1\ny,2\n")
    np.testing.assert_array_equal(
        one_hot(read_table(path), "a", ("y", "x")), [[0, 1], [1, 0]]
    )
    rng = np.random.default_rng(0)
    values = rng.normal(3, 7, (50, 2)).astype(np.float32)
    same = standardised(values, values)
    np.testing.assert_allclose(same.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(same.std(0), 1, rtol=1e-5)


def customer(amount, risk, checking="A11"):
    words = {column: words[0] for column, words in german.CATEGORIES.items()}
    values = dict.fromkeys(german.NUMBERS, 1) | words
    values |= {"amount": amount, "risk": risk, "checking": checking}
    return " ".join(str(values[column]) for column in german.COLUMNS)


def test_a_file_without_a_header_has_its_columns_by_their_order(tmp_path):
    path = tmp_path / "german.data"
    people = [customer(100, 1), customer(300, 2, "A14"), customer(100, 1)]
    people += [customer(300, 1), customer(400, 2)]
    path.write_text("\n" + "\n".join(people) + "\n")
    splits = german.read_raw(tmp_path)
    assert splits["train"].y.tolist() == [0, 1, 0, 0]
    assert splits["test"].y.tolist() == [1]
    # Mean 200, deviation 100; the categories follow the numbers.
    amount = german.NUMBERS.index("amount")
    np.testing.assert_allclose(splits["train"].x[:, amount], [-1, 1, -1, 1])
    np.testing.assert_allclose(splits["test"].x[:, amount], [2])
    place = len(german.NUMBERS)
    assert splits["train"].x[:2, place : place + 4].tolist() == [
        [1, 0, 0, 0],
        [0, 0, 0, 1],
    ]
    path.write_text(customer(100, 1) + " 5\n")
    with pytest.raises(ValueError, match="Expected 21 values in row 1"):
        german.read_raw(tmp_path)
    path.write_text(customer(100, 3))
    with pytest.raises(ValueError, match=r"risk .* got '3'"):
        german.read_raw(tmp_path)
    path.write_text("\n")
    with pytest.raises(ValueError, match="got none"):
        german.read_raw(tmp_path)


def test_the_real_files_are_as_published(raw_data_dir, cache):
    people = load("adult", raw_dir=raw_data_dir)
    assert np.bincount(people.train.y).tolist() == [24_720, 7_841]
    assert np.bincount(people.test.y).tolist() == [12_435, 3_846]
    assert people.train.x.shape[1] == sum(adult.column_widths()) == 108
    patients = load("wdbc", raw_dir=raw_data_dir)
    labels = np.concatenate([patients.train.y, patients.test.y])
    assert np.bincount(labels).tolist() == [357, 212]
    customers = load("german", raw_dir=raw_data_dir)
    labels = np.concatenate([customers.train.y, customers.test.y])
    assert np.bincount(labels).tolist() == [700, 300]
    assert customers.train.x.shape == (800, 63)
    assert (customers.train.x[:, len(german.NUMBERS) :].sum(axis=1) == 13).all()
