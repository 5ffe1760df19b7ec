"""The battery: every check over every compressor of the table."""

import pytest

from tests.conformance import compressor_checks as checks
from tests.conformance.compressor_bounds import Entry
from tests.conformance.compressor_table import COMPRESSORS


def over(entries: tuple[Entry, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("entry", entries, ids=[e.name for e in entries])


@over(COMPRESSORS)
def test_leaves_of_every_kind_come_back(entry: Entry):
    checks.check_leaves(entry)


@over(COMPRESSORS)
def test_a_broken_leaf_is_seen_to_be_broken(entry: Entry):
    checks.check_broken(entry)


@over(COMPRESSORS)
def test_init_needs_shapes_only(entry: Entry):
    checks.check_templates(entry)


@over(COMPRESSORS)
def test_vmap_and_scan_agree(entry: Entry):
    checks.check_execution(entry)


@over(COMPRESSORS)
def test_no_second_compilation(entry: Entry):
    checks.check_one_trace(entry)


@over(COMPRESSORS)
def test_decoded_from_the_paid_bytes_alone(entry: Entry):
    checks.check_wire(entry)


@over(COMPRESSORS)
def test_error_and_bias_as_declared(entry: Entry):
    checks.check_errors(entry)


@over(tuple(entry for entry in COMPRESSORS if entry.draws))
def test_noise_is_the_clients_own(entry: Entry):
    checks.check_draws(entry)


@over(tuple(entry for entry in COMPRESSORS if entry.shared))
def test_the_rounds_noise_is_the_cohorts(entry: Entry):
    checks.check_shared(entry)


@over(tuple(entry for entry in COMPRESSORS if entry.remembers))
def test_what_was_lost_is_sent_later(entry: Entry):
    checks.check_memory(entry)
