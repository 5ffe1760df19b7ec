"""Every reader on some hundred damaged inputs: what it documents, and nothing else.

`python -m tests.fuzz.fuzz --count=1000000` takes as many as one likes.
"""

import random

import pytest

from fedjax_comp.data.sources import SOURCES, Split, prepared
from tests.fuzz import fuzz, mutations
from tests.fuzz.data_parsers import prepared_parsers
from tests.fuzz.parser import Parser
from tests.fuzz.parsers import PARSERS
from tests.problems import make_examples

COUNT = 200
OF_REPORTS = 50
"""A report is a page with its figures each time."""


def assert_documented(name, parser, count):
    parser.parse(parser.valid)
    outcome = fuzz.run(name, parser, count)
    assert outcome.faults == []
    assert outcome.read + outcome.refused == count
    # Otherwise the valid input was not, or nothing was damaged.
    assert outcome.refused > count // 10


def is_report(name):
    return name.startswith("report of ")


@pytest.mark.parametrize("name", PARSERS)
def test_what_is_raised_is_what_is_documented(name):
    assert_documented(name, PARSERS[name], OF_REPORTS if is_report(name) else COUNT)


@pytest.mark.thorough
@pytest.mark.parametrize("name", list(filter(is_report, PARSERS)))
def test_what_is_raised_of_reports_is_what_is_documented(name):
    assert_documented(name, PARSERS[name], COUNT)


def test_prepared_data(tmp_path):
    examples = make_examples(20)
    split = Split(*(leaf.__array__() for leaf in examples))
    version = prepared.write(
        tmp_path, SOURCES["mnist"], {"train": split, "test": split}
    )
    for name, parser in prepared_parsers(tmp_path, version).items():
        assert_documented(name, parser, 40)


@pytest.mark.parametrize(
    "error, words",
    [
        (KeyError("x"), "KeyError"),
        (RecursionError("deep"), "RecursionError"),
        (MemoryError(), "MemoryError"),
        (ValueError("two\nlines"), "its message"),
        (ValueError("x" * 2000), "its message"),
        (ValueError(), "its message"),
    ],
)
def test_a_fault_is_told_with_its_seed(error, words):
    def parse(data):
        if data != b"valid":
            raise error

    outcome = fuzz.run("broken", Parser(b"valid", parse, (ValueError,)), 20)
    assert outcome.faults
    for seed, what in outcome.faults:
        assert seed.startswith("broken ")
        assert words in what


@pytest.mark.parametrize("name", ["mutate_bytes", "mutate_text", "mutate_json"])
def test_mutations_are_of_their_seed_alone(name):
    mutate, valid = getattr(mutations, name), b'{"a": [1, 2.5], "b": "text"}'
    made = [mutate(valid, random.Random(seed)) for seed in range(100)]
    again = [mutate(valid, random.Random(seed)) for seed in range(100)]
    assert made == again
    assert len(set(made)) > 50
