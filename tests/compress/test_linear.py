"""Every linear compressor: a decoded sum is the sum of what was decoded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.base import make_context
from fedjax_comp.compress import (
    by_rank,
    chain,
    error_feedback,
    flattened,
    identity,
    partition,
    random_k,
    rotate,
    to_dtype,
    top_k,
)
from fedjax_comp.compress.linear import decode_sum, sum_payloads
from fedjax_comp.compress.sketch import count_sketch
from fedjax_comp.compress.transform.dct import dct
from fedjax_comp.compress.transform.projection import random_projection
from tests.conformance.compressor_table import COMPRESSORS

LINEAR = {
    **{entry.name: entry.make for entry in COMPRESSORS if entry.make().linear},
    "shared random_k": lambda: random_k(0.4, shared=True),
    "pipeline": lambda: flattened(chain(rotate(), random_k(0.5, shared=True), dct(4))),
    "partition": lambda: partition(
        {"matrix": random_projection(2), "rest": count_sketch(rows=1, columns=3)},
        by_rank,
    ),
    "memory at the sender": lambda: error_feedback(random_k(0.4, shared=True)),
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", LINEAR)
def test_the_decoded_sum_is_the_sum_of_the_decoded(name):
    compressor = LINEAR[name]()
    rng = np.random.default_rng(0)
    cohort = {
        "w": jnp.asarray(rng.standard_normal((4, 6, 5)), jnp.float32),
        "b": jnp.asarray(rng.standard_normal((4, 7)), jnp.float32),
        "none": jnp.zeros((4, 0)),
    }
    state = compressor.init(jax.tree.map(lambda x: x[0], cohort))

    def client(tree, i):
        context = make_context(jax.random.key(5), i)
        payload, _ = compressor.encode(context, tree, state.sender)
        return payload, compressor.decode(context, payload, state.receiver)[0]

    payloads, decoded = jax.jit(jax.vmap(client))(cohort, jnp.arange(4))
    # No member of the cohort: a decoder that used the client's key would differ.
    stranger = make_context(jax.random.key(5), 99)
    decode = jax.jit(
        lambda payload: decode_sum(compressor, stranger, payload, state.receiver)
    )
    weights = np.array([0.5, 0.0, -2.0, 3.0], np.float32)
    for by_client, summed in (
        (np.ones(4), sum_payloads(payloads, None)),
        (weights, sum_payloads(payloads, jnp.asarray(weights))),
    ):
        got = decode(summed)
        for sum_of_all, each in zip(
            jax.tree.leaves(got), jax.tree.leaves(decoded), strict=True
        ):
            expected = np.tensordot(by_client, np.asarray(each, np.float64), axes=1)
            np.testing.assert_allclose(sum_of_all, expected, rtol=1e-4, atol=1e-4)


def test_who_is_linear():
    yes = {
        "identity", "rotate", "flattened_rotate", "rotate_blocks", "dct",
        "count_sketch", "random_projection", "random_projection_rescaled",
    }  # fmt: skip
    no = {"top_k", "random_k", "scaled_sign", "qsgd", "low_rank", "to_bfloat16",
          "power_sgd", "partition", "differenced_top_k", "stc", "demo",
          "sparse_loco"}  # fmt: skip
    linear = {entry.name for entry in COMPRESSORS if entry.make().linear}
    assert yes <= linear
    assert not no & linear
    assert not chain(rotate(), to_dtype("bfloat16")).linear
    assert not random_projection(1, shared=False).linear


def test_a_broken_payload_of_weight_zero_adds_nothing():
    payloads = jnp.array([[1.0, 2.0], [jnp.nan, jnp.inf]])
    total = sum_payloads(payloads, jnp.array([3.0, 0.0]))
    assert total.tolist() == [3.0, 6.0]


def test_what_cannot_be_added_is_refused():
    context = make_context(jax.random.key(0), 0)
    with pytest.raises(ValueError, match="Expected a linear compressor"):
        decode_sum(top_k(0.5), context, jnp.ones(2), ())
    payload, _ = top_k(0.5).encode(context, jnp.ones(4), ())
    stacked = jax.tree.map(lambda x: jnp.stack([x, x]), payload)
    with pytest.raises(ValueError, match="leaf of dtype uint32"):
        sum_payloads(stacked)
    narrow = sum_payloads(jnp.ones((300, 1), jnp.bfloat16))
    assert narrow.tolist() == [300.0]  # added as bfloat16 it would stop at 256
    assert identity().linear
