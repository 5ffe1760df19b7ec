"""Buffered averaging against FedAvg, plain loops, and the bytes of older broadcasts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_comp.algorithms.fed_avg import fed_avg
from fedjax_comp.algorithms.fed_buff import fed_buff
from fedjax_comp.compress import (
    chain,
    differenced,
    entropy_coded,
    error_feedback,
    qsgd_elias,
    top_k,
)
from fedjax_comp.compress import stochastic_quantize as quantize
from fedjax_comp.wire.traffic import totals
from tests.problems import make_cohort, softmax_task, stack_clients

TASK = softmax_task()
PARAMS = TASK.init(jax.random.key(1))
SIZES = [6, 3, 9]
COHORT = make_cohort(SIZES, batch_size=3)
RATE = 0.3


def start(algorithm):
    server, template = algorithm.init(jax.random.key(0), PARAMS)
    return server, stack_clients(template, len(SIZES))


def buffered(**options):
    return fed_buff(TASK, client_optimizer=optax.sgd(RATE), **options)


def go(algorithm, timetable):
    """Rounds with the staleness and the presence of each line; models before each."""
    server, clients = start(algorithm)
    step, models, infos = jax.jit(algorithm.round), [], []
    for index, (staleness, active) in enumerate(timetable):
        models.append(algorithm.params(server))
        cohort = COHORT._replace(
            clients=COHORT.clients._replace(active=jnp.asarray(active)),
            staleness=jnp.asarray(staleness, jnp.int32),
        )
        server, clients, info = step(jax.random.key(index), server, clients, cohort)
        infos.append(info)
    return [*models, algorithm.params(server)], clients, infos


def trained(params, client):
    """Local SGD of one client in a plain loop."""
    rows, mask = COHORT.clients.rows[client], COHORT.clients.mask[client]
    for index, used in zip(rows, mask, strict=True):
        batch = jax.tree.map(lambda x, index=index: x[index], COHORT.examples)
        if used.any():
            grads = jax.grad(TASK.loss)(params, batch, used, jax.random.key(0))
            params = jax.tree.map(lambda w, g: w - RATE * g, params, grads)
    return params


@pytest.mark.parametrize("staleness", [None, [0, 0, 0]])
def test_without_staleness_it_is_fed_avg_bit_for_bit(staleness):
    links = {
        "uplink": error_feedback(chain(quantize(levels=4), entropy_coded())),
        "downlink": chain(quantize(levels=256), entropy_coded()),
    }
    ours = buffered(**links)
    theirs = fed_avg(TASK, client_optimizer=optax.sgd(RATE), **links)
    cohort = COHORT
    if staleness is not None:
        cohort = COHORT._replace(staleness=jnp.asarray(staleness, jnp.int32))
    states = [start(ours), start(theirs)]
    steps = [jax.jit(ours.round), jax.jit(theirs.round)]
    for index in range(3):
        key = jax.random.key(index)
        (a, ca, ia), (b, cb, ib) = (
            step(key, *state, own)
            for step, state, own in zip(steps, states, (cohort, COHORT), strict=True)
        )
        states = [(a, ca), (b, cb)]
        jax.tree.map(np.testing.assert_array_equal, (a.model, ca), (b.model, cb))
        assert totals(ia.traffic) == totals(ib.traffic)


@pytest.mark.thorough
def test_against_plain_loops_over_old_models():
    """w <- w + sum_i n_i (1 + tau_i)^-a (w_i - w_{v - tau_i}) / sum_i n_i."""
    everyone = [True] * 3
    table = [
        ([0, 0, 0], everyone),
        ([1, 0, 0], [True, False, True]),
        ([2, 1, 0], everyone),
        ([0, 2, 1], everyone),
        ([2, 2, 2], [False, True, True]),
    ]
    models, _, infos = go(buffered(max_staleness=2, exponent=0.5), table)
    expected = [PARAMS]
    for version, (staleness, active) in enumerate(table):
        here = [i for i in range(3) if active[i]]
        weight = sum(SIZES[i] for i in here)
        moved = expected[-1]
        for i in here:
            began = expected[version - staleness[i]]
            share = SIZES[i] * (1 + staleness[i]) ** -0.5 / weight
            moved = jax.tree.map(
                lambda w, new, old, share=share: w + share * (new - old),
                moved,
                trained(began, i),
                began,
            )
        expected.append(moved)
        total = sum(staleness[i] for i in here)
        assert int(infos[version].observed["staleness"].value) == total
    for got, want in zip(models, expected, strict=True):
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=2e-6),
            got,
            want,
        )
    # The loop tells old models from new ones: with the newest it is somewhere else.
    newest, _, _ = go(buffered(), [([0, 0, 0], active) for _, active in table])
    assert not np.allclose(newest[-1]["kernel"], expected[-1]["kernel"], atol=1e-3)


def test_a_client_pays_for_the_broadcast_it_began_from():
    algorithm = buffered(downlink=qsgd_elias(8), max_staleness=3)
    fresh = [([0, 0, 0], [True] * 3)] * 4
    _, _, infos = go(algorithm, fresh)
    each = [totals(info.traffic).downlink_bits // 3 for info in infos]
    assert len(set(each[:2])) == 2  # otherwise nothing is shown below
    # The first client of the last line began two steps before, the second one step.
    table = [*fresh[:3], ([2, 1, 0], [True, True, False])]
    _, _, infos = go(algorithm, table)
    assert totals(infos[3].traffic).downlink_bits == each[1] + each[2]


def test_memory_of_a_client_that_is_away_is_kept():
    algorithm = buffered(uplink=error_feedback(top_k(0.2)), max_staleness=1)
    table = [([0, 0, 0], [True] * 3), ([1, 1, 1], [True, False, True])]
    _, first, _ = go(algorithm, table[:1])
    _, second, _ = go(algorithm, table)
    for before, after in zip(*map(jax.tree.leaves, (first, second)), strict=True):
        np.testing.assert_array_equal(before[1], after[1])
        assert not np.array_equal(before[0], after[0])


def test_what_cannot_be_is_refused():
    for options in ({"max_staleness": -1}, {"exponent": -0.5}):
        with pytest.raises(ValueError, match=f"Expected {next(iter(options))}=-"):
            buffered(**options)
    with pytest.raises(ValueError, match="without memory"):
        buffered(downlink=differenced(top_k(0.5))).init(jax.random.key(0), PARAMS)
