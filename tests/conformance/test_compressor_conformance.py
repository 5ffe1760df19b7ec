"""The battery: every check over every compressor of the table."""

import pytest

from tests.conformance import compressor_checks as checks
from tests.conformance.compressor_keys import check_keys, messages_of_rounds
from tests.conformance.compressor_magnitudes import check_magnitudes
from tests.conformance.compressor_statistics import check_errors
from tests.conformance.compressor_table import COMPRESSORS

CHECKS = {
    "leaves of every kind come back": checks.check_leaves,
    "a broken leaf is seen to be broken": checks.check_broken,
    "huge numbers are right or not finite": check_magnitudes,
    "init needs shapes only": checks.check_templates,
    "vmap and one by one agree": checks.check_execution,
    "no second compilation": checks.check_one_trace,
    "decoded from the paid bytes alone": checks.check_wire,
    "error and bias as declared": check_errors,
    "noise is the client's own": checks.check_draws,
    "messages depend on the declared key": check_keys,
    "the round's noise is the cohort's": checks.check_shared,
    "what was lost is sent later": checks.check_memory,
}
ONLY_IF = {
    checks.check_draws: lambda entry: entry.draws,
    checks.check_shared: lambda entry: entry.shared,
    checks.check_memory: lambda entry: entry.remembers,
}
THOROUGH = (checks.check_execution,)  # a program of its own for each entry
LONG = {
    checks.check_leaves: ("kashin", "budgeted_separable", "warm_up_top_k", "blockwise"),
    checks.check_wire: ("kashin", "budgeted_separable"),
    check_errors: (
        "kashin_quantize",
        "count_sketch",
        "sketched_update",
        "separable_unbiased",
    ),
}
"""Checks that take some seconds of these compressors."""
# Entry by entry, since the checks of an entry share compiled programs.
ALL = [
    pytest.param(
        check,
        entry,
        id=f"{entry.name}-{name}",
        marks=[pytest.mark.thorough]
        * (check in THOROUGH or entry.name in LONG.get(check, ())),
    )
    for entry in COMPRESSORS
    for name, check in CHECKS.items()
    if ONLY_IF.get(check, lambda entry: True)(entry)
]


@pytest.mark.parametrize(("check", "entry"), ALL)
def test_compressor(check, entry):
    check(entry)


@pytest.mark.parametrize("name", ["qsgd", "drive", "rotate", "count_sketch", "top_k"])
def test_a_round_gives_each_compressor_the_declared_key(name):
    """For each kind of key one: what differs by compressor is tested above."""
    (entry,) = (entry for entry in COMPRESSORS if entry.name == name)
    check_keys(entry, messages_of_rounds)
