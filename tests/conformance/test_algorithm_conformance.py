"""The battery of checks over the table of algorithms."""

import pytest

from tests.conformance.algorithm_checks import CHECKS
from tests.conformance.algorithm_table import ALGORITHMS

THOROUGH = ("executions agree", "half precision", "one trace")  # programs of their own
DECODED = ("fed_avg compressed", "fed_avg unicast")
"""Whose messages are decoded from their bytes every time, and not in thorough tests."""


def is_thorough(name, check):
    return check in THOROUGH or (check == "bytes" and name not in DECODED)


@pytest.mark.parametrize(
    ("name", "check"),
    [
        pytest.param(
            name,
            check,
            id=f"{name}-{check}",
            marks=[pytest.mark.thorough] * is_thorough(name, check),
        )
        for name in ALGORITHMS
        for check in CHECKS
    ],
)
def test_algorithm(name, check):
    CHECKS[check](ALGORITHMS[name])
