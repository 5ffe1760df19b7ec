"""Approximate synchronous parallel: its limits, and that nothing is lost."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_comp import execution as executions
from fedjax_comp import tree as trees
from fedjax_comp.algorithms.approximate_synchronous import (
    approximate_synchronous,
    inverse_root,
)
from fedjax_comp.algorithms.fed_avg import fed_avg
from fedjax_comp.algorithms.links.significance import (
    Update,
    largest,
    relative,
    significant,
    significant_link,
)
from fedjax_comp.base import Examples, Task, make_context
from fedjax_comp.compress.audit import make_auditor
from fedjax_comp.wire.accounting import message_bits, num_bits
from fedjax_comp.wire.codes import shortest_index_set
from fedjax_comp.wire.traffic import sent, totals
from tests.algorithms.test_scaffold import (
    CURVES,
    RATE,
    SIZE,
    STEPS,
    TARGETS,
    weighing,
)
from tests.problems import make_cohort, quadratics, softmax_task, stack_clients

SIZES = [6, 3, 8]
CENTRES = len(SIZES)


def run(threshold, rounds=4, task=None, cohort=None, **options):
    task = task or softmax_task()
    algorithm = approximate_synchronous(
        task,
        num_centres=CENTRES,
        optimizer=options.pop("optimizer", optax.sgd(0.3)),
        select=options.pop("select", relative(inverse_root(threshold))),
        **options,
    )
    centres, own = algorithm.init(jax.random.key(1), task.init(jax.random.key(0)))
    states, step, infos = stack_clients(own, CENTRES), jax.jit(algorithm.round), []
    for i in range(rounds):
        centres, states, info = step(
            jax.random.key(i), centres, states, cohort or make_cohort(SIZES, 3)
        )
        infos.append(info)
    return algorithm, centres, states, infos


def close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), a, b)


def test_without_threshold_it_is_synchronous():
    task, cohort = softmax_task(), make_cohort(SIZES, 8)  # one batch each: SGD
    algorithm, centres, states, _ = run(0.0, cohort=cohort)
    synchronous = fed_avg(task, client_optimizer=optax.sgd(0.3))
    server, client = synchronous.init(jax.random.key(1), task.init(jax.random.key(0)))
    clients, step = stack_clients(client, CENTRES), jax.jit(synchronous.round)
    for i in range(4):
        server, clients, _ = step(jax.random.key(i), server, clients, cohort)
    close(algorithm.params(centres), synchronous.params(server))
    assert not np.any(states.unsent)
    for replica in jax.tree.leaves(centres.replicas):
        np.testing.assert_array_equal(
            replica, np.broadcast_to(replica[0], replica.shape)
        )


def counting_task():
    """Gradients are small integers, so that sums of updates are exact in any order."""

    def loss(params, examples, mask, key):
        return jnp.sum(params["w"][None] * jnp.where(mask[:, None], examples.x, 0))

    return Task(lambda key: {"w": jnp.array([0.0, 64.0, 1.0, -8.0, 0.0])}, loss, loss)


@pytest.mark.parametrize("options", [{}, {"delay": 2}, {"delay": 2, "barrier_bits": 0}])
def test_what_was_sent_and_what_was_not_is_everything(options):
    rng = np.random.default_rng(0)
    # Centres of equal size: shares are thirds, so updates are made multiples of three.
    x = 3.0 * rng.integers(-3, 4, (6, 5)) * (rng.random((6, 5)) < 0.7)
    cohort = make_cohort([2, 2, 2], 2)._replace(
        examples=Examples(jnp.asarray(x, jnp.float32), jnp.zeros(6, jnp.int32))
    )
    threshold, rounds = 2.0, 5
    _, centres, states, _ = run(
        threshold,
        rounds,
        task=counting_task(),
        cohort=cohort,
        optimizer=optax.sgd(1.0),
        **options,
    )
    start = np.array([0.0, 64.0, 1.0, -8.0, 0.0])
    each = -x.reshape(CENTRES, 2, 5).sum(axis=1) / CENTRES
    under_way = np.asarray(states.in_flight).sum(axis=1)
    owed = np.asarray(states.unsent) + under_way
    everything = np.asarray(centres.base["w"]) + owed.sum(axis=0)
    np.testing.assert_array_equal(everything, start + rounds * each.sum(axis=0))
    # And each replica has what has arrived, and all of its own.
    np.testing.assert_array_equal(
        centres.replicas["w"], np.asarray(centres.base["w"])[None] + owed
    )
    assert np.any(states.unsent)
    if options == {"delay": 2}:
        assert np.any(under_way)
    if "barrier_bits" in options:
        assert not np.any(under_way)


@pytest.mark.parametrize(
    ("delay", "barrier_bits"), [(0, math.inf), (2, math.inf), (2, 70)]
)
def test_it_is_its_protocol_in_numpy(delay, barrier_bits):
    """Weights that differ, centres that are away, optimizers with momentum."""
    threshold = 0.6
    algorithm = approximate_synchronous(
        quadratics(SIZE),
        num_centres=3,
        optimizer=optax.sgd(RATE, momentum=0.5),
        select=relative(inverse_root(threshold)),
        delay=delay,
        barrier_bits=barrier_bits,
    )
    centres, own = algorithm.init(jax.random.key(0), {"w": jnp.ones(SIZE)})
    states, step = stack_clients(own, 3), jax.jit(algorithm.round)
    sizes, base, replicas = np.array([4, 2, 7]), np.ones(SIZE), np.ones((3, SIZE))
    velocity, unsent, way = (np.zeros((3, SIZE)) for _ in range(3))
    in_flight, lengths, waits = np.zeros((3, delay, SIZE)), set(), set()
    for t, away in enumerate([None, 1, None, 0, 2, None, None]):
        here = (np.arange(3) != away)[:, None]
        centres, states, info = step(
            jax.random.key(t), centres, states, weighing(sizes, here[:, 0])
        )
        ends = replicas
        for _ in range(STEPS):
            gradients = CURVES[:, None] * (ends - TARGETS)
            velocity = np.where(here, gradients + 0.5 * velocity, velocity)
            ends = np.where(here, ends - RATE * velocity, ends)
        shares = sizes[:, None] * here / (sizes[:, None] * here).sum()
        owed = unsent + shares * (ends - replicas)
        keep = np.abs(owed) > threshold / np.sqrt(t + 1) * np.abs(replicas)
        keep &= here
        # A bit, two counts of two; then pairs of 32 and 2 bits, or all three numbers.
        pairs = 34 * keep.sum(axis=1)
        dense = pairs > 96
        waited = (5 + np.minimum(pairs, 96) > barrier_bits) & here[:, 0]
        sent = np.where((keep | dense[:, None]) & here, owed, 0)
        way = sent
        if delay:
            now = np.where(waited[:, None], sent, 0)
            way = in_flight[:, 0] + now
            in_flight = np.concatenate(
                [in_flight[:, 1:], (sent - now)[:, None]], axis=1
            )
        unsent, base = owed - sent, base + way.sum(axis=0)
        replicas = base + unsent + in_flight.sum(axis=1)
        np.testing.assert_allclose(centres.base["w"], base, rtol=1e-4, atol=1e-5)
        got = centres.replicas["w"]
        np.testing.assert_allclose(got, replicas, rtol=1e-4, atol=1e-5)
        assert info.observed["waited_for"].value.tolist() == waited.tolist()
        lengths |= set(keep.sum(axis=1).tolist())
        waits |= set(waited.tolist())
    assert len(lengths) > 2
    assert len(waits) == 1 + math.isfinite(barrier_bits)


def test_a_late_message_arrives_after_so_many_rounds():
    task, cohort = counting_task(), make_cohort([2, 2, 2], 2)
    cohort = cohort._replace(
        examples=Examples(3.0 * jnp.ones((6, 5)), jnp.zeros(6, jnp.int32))
    )
    start = np.asarray(task.init(jax.random.key(0))["w"])
    for rounds, arrived in ((1, 0), (2, 0), (3, 1), (4, 2)):
        _, centres, _, _ = run(
            0.0, rounds, task, cohort, optimizer=optax.sgd(1.0), delay=2
        )
        np.testing.assert_array_equal(centres.base["w"], start - 6 * arrived)
        own = 2.0 * (rounds - arrived)
        np.testing.assert_array_equal(
            centres.replicas["w"][0], start - 6 * arrived - own
        )


def test_significant_by_numpy():
    rng = np.random.default_rng(1)
    update, weights = rng.normal(size=(2, 200)).astype(np.float32)
    update[:20], weights[10:40] = 0, 0
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = np.abs(update / weights) > np.float32(0.3)
    expected |= (weights == 0) & (update != 0)
    expected[update == 0] = False
    got = significant(jnp.asarray(update), jnp.asarray(weights), jnp.float32(0.3))
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("code", [None, shortest_index_set()])
def test_a_message_is_dense_where_pairs_would_be_longer(code):
    link, context = significant_link(code), make_context(jax.random.key(0), 0)
    values, n = jnp.arange(1.0, 65.0), 64
    for kept in (0, 1, 5, 63, 64):
        keep = jnp.arange(n) < kept
        payload, _ = link.encode(context, Update(values, keep), ())
        bits, dense = message_bits(num_bits(payload)), bool(payload.dense.values[0])
        got = link.decode(context, payload, ())[0]
        sent = np.ones(n, bool) if dense else np.asarray(keep)
        np.testing.assert_array_equal(got.values, np.where(sent, values, 0))
        np.testing.assert_array_equal(got.keep, sent)
        # A bit, two counts of 7 bits, and 32 bits a value with 6 for its place.
        assert bits <= 1 + 2 * 7 + 32 * n + (0 if code is None else 8)
        if code is None:
            pairs = 1 + 2 * 7 + kept * (32 + 6)
            assert bits == min(pairs, 1 + 2 * 7 + 32 * n)
            assert dense == (kept * 38 > 32 * n)


def test_bytes_count_once_for_every_receiver():
    _, _, _, infos = run(0.5, keep_messages=True, delay=1)
    for info in infos:
        messages = info.messages["updates"]
        audit = make_auditor(significant_link())(messages)
        assert (audit.audited, audit.failures) == (CENTRES, ())
        assert totals(info.traffic).uplink_messages == CENTRES * (CENTRES - 1)
        lengths = sum(
            -(
                -message_bits(
                    num_bits(jax.tree.map(lambda x, i=i: x[i], messages.payload))
                )
                // 8
            )
            for i in range(CENTRES)
        )
        assert totals(info.traffic).uplink_bytes == (CENTRES - 1) * lengths
        assert totals(info.traffic).downlink_bytes == totals(info.traffic).uplink_bytes
        # Everybody hears everybody else, and nobody itself.
        rows = sent(info.traffic)
        pairs = set(zip(rows.sender.tolist(), rows.receiver.tolist(), strict=True))
        everyone = range(CENTRES)
        assert pairs == {(i, j) for i in everyone for j in everyone if i != j}
        assert messages.ends.sender.tolist() == list(everyone)


def test_a_higher_threshold_sends_less():
    sent = [
        sum(int(info.observed["significant"].value) for info in run(threshold)[3])
        for threshold in (0.0, 0.2, 2.0)
    ]
    assert sent[0] > sent[1] > sent[2] > 0


def test_the_largest_coordinates_by_numpy():
    rng = np.random.default_rng(1)
    update = rng.normal(size=50).astype(np.float32)
    got = largest(0.1)(jnp.asarray(update), jnp.ones(50), jnp.int32(0))
    assert set(np.flatnonzero(got)) == set(np.argsort(-np.abs(update))[:5])
    with pytest.raises(ValueError, match="fraction=0"):
        largest(0.0)


def test_top_k_by_the_same_protocol():
    """All coordinates are no threshold; a tenth of them is a tenth of every message."""
    size = trees.size(softmax_task().init(jax.random.key(0)))
    everything = run(0.0, select=largest(1.0), delay=1)
    close(everything[1].replicas, run(0.0, delay=1)[1].replicas)
    for info in run(0.0, select=largest(0.1), delay=1)[3]:
        assert int(info.observed["significant"].value) == CENTRES * round(0.1 * size)


def test_executions_agree():
    expected = run(0.2, rounds=2)[1]
    close(run(0.2, rounds=2, execution=executions.sharded())[1], expected)


def test_silent_and_broken_centres():
    cohort = make_cohort(SIZES, 3)
    idle = cohort._replace(
        clients=cohort.clients._replace(active=jnp.array([True, False, True]))
    )
    _, centres, states, infos = run(0.2, cohort=idle)
    assert totals(infos[-1].traffic).uplink_messages == 2 * (CENTRES - 1)
    assert not np.any(states.unsent[1])
    x = cohort.examples.x.at[SIZES[0]].set(jnp.inf)
    spoilt = cohort.examples._replace(x=x)
    same = run(0.2, cohort=idle._replace(examples=spoilt))[1]
    jax.tree.map(np.testing.assert_array_equal, same, centres)
    _, centres, states, infos = run(0.2, cohort=cohort._replace(examples=spoilt))
    assert [int(info.dropped) for info in infos] == [1] * 4
    assert bool(trees.all_finite((centres, states)))


def test_mistakes_are_told():
    def make(**changes):
        settings = {"num_centres": 3, "select": relative(inverse_root(0.1)), **changes}
        return approximate_synchronous(
            softmax_task(), optimizer=optax.sgd(0.1), **settings
        )

    with pytest.raises(ValueError, match="num_centres=1"):
        make(num_centres=1)
    with pytest.raises(ValueError, match="delay=-1"):
        make(delay=-1)
    with pytest.raises(ValueError, match="barrier_bits=nan"):
        make(barrier_bits=math.nan)
    with pytest.raises(ValueError, match="initial=-1"):
        inverse_root(-1)
    with pytest.raises(ValueError, match="all num_centres=3 centres, got 2"):
        run(0.1, cohort=make_cohort([3, 3], 3))
