"""Chains, groups and flat vectors: what reaches which stage, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.base import Compressor, LinkState, make_context
from fedjax_comp.compress import (
    by_rank,
    chain,
    error_feedback,
    flattened,
    identity,
    low_rank,
    partition,
    qsgd,
    random_k,
    rotate,
    stochastic_quantize,
    to_dtype,
    top_k,
)
from fedjax_comp.compress.combine.leafwise import require_open
from fedjax_comp.wire.fields import IndexSet, Raw, Symbols, fields

CONTEXT = make_context(jax.random.key(0), 0)
TREE = {
    "kernel": jnp.arange(24.0).reshape(6, 4) - 7,
    "bias": jnp.asarray([0.5, -2.0, 1.0]),
    "steps": jnp.arange(2),
}


def roundtrip(compressor, tree, context=CONTEXT):
    state = compressor.init(tree)
    payload, _ = compressor.encode(context, tree, state.sender)
    return payload, compressor.decode(context, payload, state.receiver)[0]


def assert_equal(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_a_later_stage_refines_what_is_open_and_passes_the_rest():
    payload, decoded = roundtrip(chain(top_k(0.5), to_dtype("bfloat16")), TREE)
    kinds = [type(field) for field in fields(payload)]
    # bias, kernel: values and indices; steps: as it is.
    assert kinds[:4] == [Raw, IndexSet, Raw, IndexSet]
    assert not isinstance(fields(payload)[4], Raw | IndexSet | Symbols)
    _, expected = roundtrip(top_k(0.5), TREE)  # small integers survive bfloat16
    assert_equal(decoded, expected)


def test_identity_in_a_chain_changes_nothing():
    payloads = [
        roundtrip(chain(*stages), TREE)
        for stages in ([top_k(0.3)], [identity(), top_k(0.3)], [top_k(0.3), identity()])
    ]
    for payload, decoded in payloads[1:]:
        assert_equal(decoded, payloads[0][1])
        assert len(fields(payload)) == len(fields(payloads[0][0]))


def test_a_chain_of_three_and_a_chain_of_chains_agree():
    a, b, c = low_rank(1), top_k(0.5), to_dtype("float16")
    _, flat = roundtrip(chain(a, b, c), TREE)
    for nested in (chain(chain(a, b), c), chain(a, chain(b, c))):
        # No stage draws at random, so the keys' other folding does not matter.
        assert_equal(roundtrip(nested, TREE)[1], flat)


def test_stages_leaves_and_groups_draw_their_own_noise():
    tree = [jnp.ones(64)] * 2
    _, (first, second) = roundtrip(random_k(0.5), tree)
    assert not bool(jnp.all(first == second))
    groups = partition(
        {"0": random_k(0.5), "1": random_k(0.5)}, lambda path, leaf: str(path[0].idx)
    )
    _, (first, second) = roundtrip(groups, tree)
    assert not bool(jnp.all(first == second))
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


def test_nothing_to_send_is_no_error():
    for tree in ({}, {"steps": jnp.arange(3)}, {"empty": jnp.zeros((0, 2))}):
        for compressor in (
            chain(top_k(0.1), qsgd(3)),
            flattened(chain(rotate(), qsgd(3))),
            error_feedback(partition({"rest": sign_like()}, lambda *_: "rest")),
        ):
            assert_equal(roundtrip(compressor, tree)[1], tree)


def sign_like() -> Compressor:
    return chain(top_k(0.5), stochastic_quantize(2))


def test_flattened_chooses_across_leaves():
    tree = {"a": jnp.asarray([1.0, 2.0]), "b": jnp.asarray([[3.0], [9.0]])}
    _, decoded = roundtrip(flattened(top_k(k=1)), tree)
    assert_equal(decoded, {"a": jnp.zeros(2), "b": jnp.asarray([[0.0], [9.0]])})


def test_flattened_restores_dtypes_and_passes_integers():
    tree = {
        "a": jnp.asarray([1.5], jnp.bfloat16),
        "n": jnp.arange(2),
        "s": jnp.ones(()),
    }
    assert_equal(roundtrip(flattened(identity()), tree)[1], tree)


def test_partition_sends_each_leaf_to_its_compressor():
    compressor = partition({"matrix": top_k(k=1), "rest": identity()}, by_rank)
    _, decoded = roundtrip(compressor, TREE)
    assert int(jnp.sum(decoded["kernel"] != 0)) == 1
    assert_equal(decoded["bias"], TREE["bias"])
    assert_equal(decoded["steps"], TREE["steps"])


def test_partition_names_a_label_it_does_not_know():
    compressor = partition({"matrix": identity()}, by_rank)
    with pytest.raises(ValueError, match=r"label='rest' of leaf .*bias"):
        compressor.init(TREE)


def counting() -> Compressor:
    """Counts messages at both ends, to follow states through combinators."""
    return Compressor(
        init=lambda like: LinkState(jnp.asarray(0), jnp.asarray(0)),
        encode=lambda context, tree, sender: (tree, sender + 1),
        decode=lambda context, payload, receiver: (payload, receiver + 1),
    )


@pytest.mark.parametrize(
    "wrap",
    [
        lambda c: chain(identity(), c, c),
        flattened,
        lambda c: partition({"matrix": c, "rest": identity()}, by_rank),
        error_feedback,
    ],
)
def test_states_of_both_ends_reach_the_compressor_inside(wrap):
    compressor = wrap(counting())
    state = compressor.init(TREE)
    for _ in range(3):
        payload, sender = compressor.encode(CONTEXT, TREE, state.sender)
        _, receiver = compressor.decode(CONTEXT, payload, state.receiver)
        state = LinkState(sender, receiver)
    counts = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.integer)]
    assert len(counts) >= 2
    assert all(int(count) == 3 for count in counts)


def test_what_is_no_compressor_is_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"write it as a call: top_k\(\.\.\.\)"):
        chain(top_k)
    with pytest.raises(ValueError, match="stage 1 of chain"):
        chain(identity(), 3)
    with pytest.raises(ValueError, match="at least one stage"):
        chain()
    for make in (flattened, error_feedback):
        with pytest.raises(ValueError, match="to be a compressor"):
            make(None)
    with pytest.raises(ValueError, match="compressor of 'rest'"):
        partition({"rest": qsgd}, by_rank)
    with pytest.raises(ValueError, match="a mapping"):
        partition({}, by_rank)
    with pytest.raises(ValueError, match="such as by_rank"):
        partition({"rest": identity()}, "by_rank")


def test_require_open_counts_only_later_stages():
    require_open("stage", {})
    require_open("stage", [jnp.arange(2)])
    require_open("stage", [Raw(jnp.ones(2)), jnp.ones(2)])
    with pytest.raises(ValueError, match="for stage to act on"):
        require_open("stage", [Raw(jnp.ones(2)), jnp.arange(2)])
