"""Chains: what reaches which stage, and what is refused."""

import jax
import jax.numpy as jnp
import pytest

from fedjax_comp.compress import (
    blockwise,
    by_rank,
    chain,
    differenced,
    entropy_coded,
    error_feedback,
    flattened,
    identity,
    low_rank,
    partition,
    power_sgd,
    qsgd,
    random_k,
    rotate,
    scaled_sign,
    stochastic_quantize,
    to_dtype,
    top_k,
)
from fedjax_comp.compress.combine.differences import ReceiverState, SenderState
from fedjax_comp.wire.fields import IndexSet, Raw, Symbols, fields
from tests.compress.combine.roundtrips import (
    CONTEXT,
    NOTHING,
    TREE,
    assert_counts,
    assert_equal,
    counting,
    roundtrip,
)


@pytest.mark.thorough
def test_a_later_stage_refines_what_is_open_and_passes_the_rest():
    payload, decoded = roundtrip(chain(top_k(0.5), to_dtype("bfloat16")), TREE)
    kinds = [type(field) for field in fields(payload)]
    # bias, kernel: values and indices; steps: as it is.
    assert kinds[:4] == [Raw, IndexSet, Raw, IndexSet]
    assert not isinstance(fields(payload)[4], Raw | IndexSet | Symbols)
    _, expected = roundtrip(top_k(0.5), TREE)  # small integers survive bfloat16
    assert_equal(decoded, expected)


@pytest.mark.thorough
def test_identity_in_a_chain_changes_nothing():
    payloads = [
        roundtrip(chain(*stages), TREE)
        for stages in ([top_k(0.3)], [identity(), top_k(0.3)], [top_k(0.3), identity()])
    ]
    for payload, decoded in payloads[1:]:
        assert_equal(decoded, payloads[0][1])
        assert len(fields(payload)) == len(fields(payloads[0][0]))


@pytest.mark.thorough
def test_a_chain_of_three_and_a_chain_of_chains_agree():
    a, b, c = low_rank(1), top_k(0.5), to_dtype("float16")
    _, flat = roundtrip(chain(a, b, c), TREE)
    for nested in (chain(chain(a, b), c), chain(a, chain(b, c))):
        # No stage draws at random, so the keys' other folding does not matter.
        assert_equal(roundtrip(nested, TREE)[1], flat)


def test_stages_draw_their_own_noise():
    _, first = roundtrip(chain(random_k(0.5), identity()), jnp.ones(64))
    _, second = roundtrip(chain(identity(), random_k(0.5)), jnp.ones(64))
    assert not bool(jnp.all(first == second))


@pytest.mark.parametrize(
    "pipeline",
    [
        lambda: chain(to_dtype("bfloat16"), top_k(0.1)),
        lambda: chain(qsgd(3), rotate()),
        lambda: chain(stochastic_quantize(4), flattened(top_k(0.1))),
        lambda: chain(qsgd(3), error_feedback(top_k(0.1))),
        lambda: chain(qsgd(3), partition({"rest": top_k(0.1)}, by_rank)),
        lambda: chain(top_k(0.1), low_rank(1)),
        lambda: error_feedback(flattened(chain(qsgd(3), top_k(0.5)))),
    ],
)
def test_a_stage_that_finds_nothing_open_is_refused_at_init(pipeline):
    with pytest.raises(ValueError, match="Expected an open float leaf for"):
        pipeline().init(TREE)


def test_nothing_to_send_is_not_an_error():
    for tree in NOTHING:
        assert_equal(roundtrip(chain(top_k(0.1), qsgd(3)), tree)[1], tree)


def test_states_of_both_ends_reach_every_stage():
    assert_counts(chain(identity(), counting(), counting()), at_least=4)


def test_what_is_not_a_compressor_is_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"write it as a call: top_k\(\.\.\.\)"):
        chain(top_k)
    with pytest.raises(ValueError, match="stage 1 of chain"):
        chain(identity(), 3)
    with pytest.raises(ValueError, match="at least one stage"):
        chain()


@pytest.mark.parametrize(
    "pipeline",
    [
        chain(top_k(0.1), error_feedback(to_dtype("bfloat16"))),
        chain(rotate(), differenced(top_k(0.1))),
        chain(identity(), flattened(error_feedback(top_k(0.1)))),
    ],
)
def test_a_memory_of_places_behind_another_stage_is_refused(pipeline):
    with pytest.raises(ValueError, match=r"error_feedback\(chain\("):
        pipeline.init(TREE)


@pytest.mark.parametrize(
    "pipeline",
    [
        chain(differenced(identity()), scaled_sign()),
        chain(flattened(differenced(top_k(0.5))), identity(), to_dtype("bfloat16")),
        chain(differenced(top_k(0.5)), entropy_coded(), qsgd(3)),
    ],
)
def test_what_would_make_two_references_differ_is_refused(pipeline):
    with pytest.raises(ValueError, match=r"differenced\(chain\("):
        pipeline.init(TREE)


@pytest.mark.parametrize(
    "pipeline",
    [
        chain(differenced(qsgd(3)), entropy_coded()),
        pytest.param(
            chain(differenced(top_k(0.5)), entropy_coded()), marks=pytest.mark.thorough
        ),
        pytest.param(
            differenced(chain(top_k(0.5), qsgd(3))), marks=pytest.mark.thorough
        ),
    ],
)
def test_lossless_stages_behind_a_reference_leave_it_equal_at_both_ends(pipeline):
    sender, receiver = pipeline.init(TREE)
    for _ in range(3):
        payload, sender = pipeline.encode(CONTEXT, TREE, sender)
        _, receiver = pipeline.decode(CONTEXT, payload, receiver)

    def references(state):
        kinds = (SenderState, ReceiverState)
        parts = jax.tree.leaves(state, is_leaf=lambda part: isinstance(part, kinds))
        return [part.reference for part in parts if isinstance(part, kinds)]

    assert_equal(references(receiver), references(sender))


@pytest.mark.parametrize(
    "pipeline",
    [
        lambda: flattened(low_rank(2)),
        lambda: flattened(power_sgd(2)),
        lambda: blockwise(64, low_rank(2)),
        lambda: chain(rotate(), low_rank(2)),
    ],
)
def test_a_matrix_compressor_that_would_see_a_vector_is_refused(pipeline):
    with pytest.raises(ValueError, match=r"one vector of .* as it is"):
        pipeline().init(jnp.ones((64, 32)))
