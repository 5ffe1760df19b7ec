"""Index sets that a bitmap describes best, and what is not an index set."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.wire.bitstream import BitReader
from fedjax_comp.wire.codes.index_sets import shortest_index_set
from fedjax_comp.wire.errors import WireError
from fedjax_comp.wire.fields import IndexSet
from tests.wire.code_samples import check_round_trip


@pytest.mark.parametrize(("bound", "k"), [(300, 108), (1000, 375)])
def test_a_set_that_is_bad_for_golomb_costs_its_bitmap(bound, k):
    """Golomb of parameter 2 wastes half a bit on every even gap."""
    gaps = np.zeros(k, int)
    gaps[: (bound - k) // 2] = 2
    np.random.default_rng(0).shuffle(gaps)
    indices = np.cumsum(gaps + 1) - 1
    assert indices[-1] < bound
    field = IndexSet(jnp.asarray(indices, jnp.uint32), bound)
    assert check_round_trip(field, shortest_index_set()) == 1 + bound


@pytest.mark.parametrize("counted", [False, True])
def test_a_set_without_room_costs_nothing(counted):
    empty = jnp.zeros(0, jnp.uint32)
    field = IndexSet(empty, 5, jnp.uint32(0) if counted else None)
    assert check_round_trip(field, shortest_index_set()) == 0


def test_more_indices_than_there_are_places_are_refused_at_both_ends():
    field = IndexSet(jnp.arange(5, dtype=jnp.uint32), 3)
    with pytest.raises(ValueError, match="Expected k=5 <= bound=3"):
        shortest_index_set().num_bits(field)
    template = jax.eval_shape(lambda: field)
    with pytest.raises(WireError, match="Expected k=5 <= bound=3"):
        shortest_index_set().unpack(template, BitReader(b""))
