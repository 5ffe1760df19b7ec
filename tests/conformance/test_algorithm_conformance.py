"""The battery of checks over the table of algorithms."""

import pytest

from tests.conformance.algorithm_checks import CHECKS
from tests.conformance.algorithm_table import ALGORITHMS


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_algorithm(name, check):
    CHECKS[check](ALGORITHMS[name])
