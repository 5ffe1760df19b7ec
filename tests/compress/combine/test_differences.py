"""EF21 and DIANA against their recursions and their rates; silent clients in FedAvg."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_comp.algorithms.fed_avg import fed_avg
from fedjax_comp.base import make_context
from fedjax_comp.compress import (
    differenced,
    error_feedback,
    identity,
    random_k,
    stochastic_quantize,
    top_k,
)
from fedjax_comp.compress.combine.feedback import FeedbackState
from tests.problems import make_cohort, softmax_task, stack_clients

CONTEXT = make_context(jax.random.key(0), 0)


def test_ef21_equals_its_recursion_and_both_ends_agree():
    compressor = differenced(top_k(k=2))
    xs = np.random.default_rng(0).standard_normal((20, 5)).astype(np.float32)
    sender, receiver = compressor.init(jnp.asarray(xs[0]))
    reference = np.zeros(5, np.float32)
    encode, decode = jax.jit(compressor.encode), jax.jit(compressor.decode)
    for x in xs:
        difference = x - reference
        kept = np.abs(difference) >= np.sort(np.abs(difference))[-2]
        reference = reference + np.where(kept, difference, 0)
        payload, sender = encode(CONTEXT, jnp.asarray(x), sender)
        decoded, receiver = decode(CONTEXT, payload, receiver)
        np.testing.assert_array_equal(decoded, reference)
        np.testing.assert_array_equal(sender.reference[0], reference)
        np.testing.assert_array_equal(receiver.reference[0], reference)


def test_a_constant_is_approached_at_the_contraction_of_the_compressor():
    compressor = differenced(top_k(k=3))
    x = jnp.asarray(np.random.default_rng(1).standard_normal(12), jnp.float32)
    sender, receiver = compressor.init(x)
    norm = float(jnp.sum(x**2))
    for t in range(1, 5):
        payload, sender = compressor.encode(CONTEXT, x, sender)
        decoded, receiver = compressor.decode(CONTEXT, payload, receiver)
        assert float(jnp.sum((decoded - x) ** 2)) <= (1 - 3 / 12) ** t * norm
    np.testing.assert_allclose(decoded, x, rtol=1e-6)  # four times three coordinates


def test_diana_drives_its_noise_to_zero_where_plain_noise_stays():
    fraction, n, rounds = 0.25, 16, 200
    x = jnp.asarray(np.random.default_rng(2).standard_normal(n), jnp.float32)
    compressor = differenced(random_k(fraction), step=fraction)  # 1 / (1 + omega)

    def step(state, key):
        context = make_context(key, 0)
        payload, sender = compressor.encode(context, x, state[0])
        decoded, receiver = compressor.decode(context, payload, state[1])
        return (sender, receiver), jnp.sum((decoded - x) ** 2)

    keys = jax.random.split(jax.random.key(3), rounds)
    errors = jax.jit(lambda s: jax.lax.scan(step, s, keys)[1])(
        tuple(compressor.init(x))
    )
    # With step 1 / (1 + omega) a kept coordinate of h becomes x's: a coordinate is
    # missed in 150 rounds with probability 0.75**150 < 1e-18.
    assert float(jnp.max(errors[150:])) <= 1e-10
    assert float(errors[0]) > 0.1


def test_references_are_float32_for_narrow_leaves_and_integers_pass():
    tree = {"n": jnp.arange(3), "x": jnp.ones(2, jnp.bfloat16)}
    compressor = differenced(top_k(k=1))
    sender, receiver = compressor.init(tree)
    assert [h.dtype for h in sender.reference] == [jnp.float32]
    payload, _ = compressor.encode(CONTEXT, tree, sender)
    decoded, _ = compressor.decode(CONTEXT, payload, receiver)
    assert decoded["x"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(decoded["n"], tree["n"])


def test_fed_avg_with_differences_of_an_exact_compressor_is_fed_avg():
    cohort = make_cohort([7, 3, 9], batch_size=4)
    got, _ = run_fed_avg(differenced(identity()), [cohort] * 3)
    expected, _ = run_fed_avg(identity(), [cohort] * 3)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        got,
        expected,
    )


@pytest.mark.parametrize(
    "uplink",
    [
        differenced(top_k(0.3)),
        differenced(stochastic_quantize(levels=4), step=0.5),
        error_feedback(differenced(top_k(0.3))),
        error_feedback(top_k(0.3), momentum=0.9, masks_momentum=True),
    ],
)
def test_a_silent_client_keeps_its_references_bit_for_bit(uplink):
    cohort = make_cohort([7, 3, 9], batch_size=4)
    silent = cohort._replace(
        clients=cohort.clients._replace(active=jnp.array([True, False, True]))
    )
    _, states = run_fed_avg(uplink, [cohort, silent])
    before, after = states
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    changed = [
        [bool(np.any(np.asarray(old[i] != new[i]))) for i in range(3)]
        for old, new in pairs
    ]
    assert not any(row[1] for row in changed)
    assert any(row[0] for row in changed)
    assert any(row[2] for row in changed)


def inmost(sender):
    """The references of a sender, or of what is inside an `error_feedback`."""
    return sender.sender if isinstance(sender, FeedbackState) else sender


def run_fed_avg(uplink, cohorts):
    task = softmax_task()
    algorithm = fed_avg(task, client_optimizer=optax.sgd(0.3), uplink=uplink)
    server, template = algorithm.init(jax.random.key(0), task.init(jax.random.key(1)))
    clients = stack_clients(template, 3)
    step, states = jax.jit(algorithm.round), []
    for i, cohort in enumerate(cohorts):
        server, clients, info = step(jax.random.key(i), server, clients, cohort)
        assert int(info.dropped) == 0
        states.append(clients)
        if isinstance(clients.receiver, tuple) and clients.receiver:
            for sent, received in zip(
                inmost(clients.sender).reference,
                clients.receiver.reference,
                strict=True,
            ):
                np.testing.assert_array_equal(sent, received)
    return algorithm.params(server), states


def test_refusals_name_the_value():
    with pytest.raises(ValueError, match=r"Expected step=0 in \(0, 1\]"):
        differenced(identity(), step=0)
    with pytest.raises(ValueError, match="not identity; write it as a call"):
        differenced(identity)
