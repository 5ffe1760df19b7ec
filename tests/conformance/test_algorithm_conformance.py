"""The battery of checks over the table of algorithms."""

import pytest

from tests.conformance.algorithm_checks import CHECKS
from tests.conformance.algorithm_table import ALGORITHMS

THOROUGH = ("executions agree", "half precision", "one trace")  # programs of their own


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(check, marks=[pytest.mark.thorough] * (check in THOROUGH))
        for check in CHECKS
    ],
)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_algorithm(name, check):
    CHECKS[check](ALGORITHMS[name])
