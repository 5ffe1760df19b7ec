"""The battery of checks over the table of algorithms."""

import pytest

from tests.conformance.algorithm_checks import CHECKS
from tests.conformance.algorithm_table import ALGORITHMS

THOROUGH = ("executions agree", "half precision", "one trace")  # programs of their own
LONG = ("bytes", "silence", "broken client")
EVERY_TIME = ("fed_avg compressed", "fed_avg unicast", "scaffold")
"""Of whom the long checks are made every time, and not in thorough tests alone."""


def is_thorough(name, check):
    return check in THOROUGH or (check in LONG and name not in EVERY_TIME)


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
