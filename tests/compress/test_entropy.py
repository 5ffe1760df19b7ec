"""`entropy_coded` marks what can be coded and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.base import LinkState, make_context
from fedjax_comp.compress import chain, top_k
from fedjax_comp.compress.entropy import entropy_coded
from fedjax_comp.wire.accounting import message_bits, num_bits
from fedjax_comp.wire.codes import (
    elias_omega,
    fixed_width,
    golomb_rice,
    rans,
    shortest_index_set,
)
from fedjax_comp.wire.fields import Coded, IndexSet, Raw, Symbols
from fedjax_comp.wire.message import from_bytes, to_bytes

PAYLOAD = [
    jnp.ones(3),
    Raw(jnp.ones(2)),
    Symbols(jnp.asarray(np.arange(400) % 50 // 48, jnp.uint8), 4),
    IndexSet(jnp.arange(5, dtype=jnp.uint32) * 7, 1000),
]


def encode(compressor, payload):
    context = make_context(jax.random.key(0), 0)
    coded, sender = compressor.encode(context, payload, ())
    assert sender == ()
    decoded, receiver = compressor.decode(context, coded, ())
    assert receiver == ()
    return coded, decoded


def test_symbols_and_indices_are_coded_and_the_rest_passes():
    coded, decoded = encode(entropy_coded(), PAYLOAD)
    assert [type(x) for x in coded[1:]] == [Raw, Coded, Coded]
    assert coded[2].code is rans()
    assert coded[3].code is shortest_index_set()
    jax.tree.map(np.testing.assert_array_equal, decoded, PAYLOAD)
    assert message_bits(jax.jit(num_bits)(coded)) < message_bits(num_bits(PAYLOAD))
    back = from_bytes(to_bytes(coded), jax.eval_shape(lambda: coded))
    jax.tree.map(np.testing.assert_array_equal, back, coded)


def test_codes_are_arguments():
    compressor = entropy_coded(symbols=elias_omega(), indices=fixed_width())
    coded, _ = encode(compressor, PAYLOAD)
    assert coded[2].code is elias_omega()
    assert coded[3].code is fixed_width()


def test_a_run_compiles_once():
    compressor = entropy_coded()
    traces = []

    @jax.jit
    def length(payload):
        traces.append(None)
        coded, _ = compressor.encode(make_context(jax.random.key(0), 0), payload, ())
        return coded, num_bits(coded)

    first, bits = length(PAYLOAD)
    second, _ = length([*first[:2], first[2].field, first[3].field])
    assert len(traces) == 1
    assert jax.tree.structure(first) == jax.tree.structure(second)
    assert -(-message_bits(bits) // 8) == len(to_bytes(first)) - len(to_bytes([]))


def test_init_wants_something_to_code():
    compressor = entropy_coded()
    assert compressor.init(PAYLOAD) == LinkState((), ())
    assert compressor.init(jax.eval_shape(lambda: PAYLOAD)) == LinkState((), ())
    assert compressor.init([]) == LinkState((), ())
    with pytest.raises(ValueError, match="no symbols and no indices"):
        compressor.init([jnp.ones(3), Raw(jnp.ones(2))])


@pytest.mark.parametrize("tree", [{"n": jnp.arange(3)}, [jnp.zeros((0, 2))], {}])
def test_trees_without_floats_pass_a_whole_pipeline(tree):
    uplink = chain(top_k(0.5), entropy_coded())
    state = uplink.init(tree)
    context = make_context(jax.random.key(0), 0)
    payload, _ = uplink.encode(context, tree, state.sender)
    decoded, _ = uplink.decode(context, payload, state.receiver)
    assert jax.tree.structure(decoded) == jax.tree.structure(tree)
    for got, sent in zip(jax.tree.leaves(decoded), jax.tree.leaves(tree), strict=True):
        assert got.tolist() == sent.tolist()


@pytest.mark.parametrize("arguments", [{"symbols": rans}, {"indices": "rans"}])
def test_what_is_no_code_is_refused(arguments):
    with pytest.raises(ValueError, match="to be a code, not"):
        entropy_coded(**arguments)


def test_a_code_of_the_other_fields_is_refused_when_it_is_named():
    with pytest.raises(ValueError, match=r"of IndexSet fields, which elias_omega is"):
        entropy_coded(indices=elias_omega())
    with pytest.raises(ValueError, match=r"of IndexSet fields.* out for shortest_ind"):
        entropy_coded(indices=rans())
    with pytest.raises(ValueError, match=r"of Symbols fields, which shortest_index_s"):
        entropy_coded(symbols=shortest_index_set())
    entropy_coded(symbols=golomb_rice(), indices=golomb_rice())
