"""Dynamic averaging: its limit cases, its bound, and its balancing sets."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_comp.algorithms.dynamic_averaging import dynamic, never, periodic
from fedjax_comp.algorithms.model_averaging import (
    Members,
    Moved,
    mean_of,
    model_averaging,
)
from fedjax_comp.compress import qsgd
from fedjax_comp.wire.traffic import totals
from tests.problems import make_cohort, softmax_task, stack_clients

TASK = softmax_task()
NUM_LEARNERS = 6
COHORT = make_cohort([6, 4, 6, 2, 5, 6], batch_size=2)
MODEL_BYTES = 4 * 18


TRIGGERS = {delta: jax.jit(dynamic(delta)) for delta in (0.5, 2.0, 8.0)}


def run(trigger, rounds=4, cohort=COHORT, **options):
    algorithm = model_averaging(
        TASK, trigger, optimizer=optax.sgd(0.4, momentum=0.5), **options
    )
    server, template = algorithm.init(jax.random.key(0), TASK.init(jax.random.key(1)))
    clients = stack_clients(template, NUM_LEARNERS)
    step = jax.jit(algorithm.round)
    infos = []
    for i in range(rounds):
        server, clients, info = step(jax.random.key(i), server, clients, cohort)
        infos.append(info)
    return server, clients, infos


def moved(rows, weights=None, violations=0, able=None):
    rows = jnp.asarray(rows, jnp.float32)
    count = rows.shape[0]
    return Moved(
        difference=rows,
        able=jnp.ones(count, bool) if able is None else jnp.asarray(able),
        weights=jnp.ones(count) if weights is None else jnp.asarray(weights),
        violations=jnp.asarray(violations, jnp.int32),
        step=jnp.zeros(rows.shape[1:]),
    )


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_delta_zero_is_periodic_averaging_bit_for_bit():
    dynamic_server, dynamic_clients, infos = run(dynamic(0.0))
    periodic_server, periodic_clients, others = run(periodic())
    equal(dynamic_server.reference, periodic_server.reference)
    equal(dynamic_clients, periodic_clients)
    for ours, theirs in zip(infos, others, strict=True):
        assert totals(ours.traffic).uplink_bytes == totals(theirs.traffic).uplink_bytes
        assert totals(ours.traffic).uplink_bytes == NUM_LEARNERS * MODEL_BYTES
        assert bool(ours.observed["full"].value)


def test_delta_infinity_sends_nothing_and_is_never_averaging():
    server, clients, infos = run(dynamic(float("inf")))
    _, alone, _ = run(never())
    equal(clients, alone)
    equal(server.reference, TASK.init(jax.random.key(1)))
    for info in infos:
        assert (
            totals(info.traffic).uplink_bytes
            == totals(info.traffic).downlink_bytes
            == 0
        )


def test_periodic_is_the_weighted_mean_of_the_learners():
    server, clients, _ = run(periodic(), rounds=1)
    _, alone, _ = run(never(), rounds=1)
    weights = np.array([6, 4, 6, 2, 5, 6], np.float64)
    for name in ("bias", "kernel"):
        own = np.asarray(alone.learner.params[name], np.float64)
        mean = np.tensordot(weights / weights.sum(), own, 1)
        np.testing.assert_allclose(server.reference[name], mean, rtol=1e-5, atol=1e-6)
        for i in range(NUM_LEARNERS):
            np.testing.assert_array_equal(
                clients.learner.params[name][i], server.reference[name]
            )
    # The optimizer's state is neither sent nor averaged.
    equal(clients.learner.optimizer_state, alone.learner.optimizer_state)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    scale=st.floats(0.01, 3.0),
    delta=st.sampled_from(sorted(TRIGGERS)),
)
def test_divergence_is_bounded_while_local_conditions_hold(seed, scale, delta):
    rows = scale * np.random.default_rng(seed).normal(size=(7, 5)).astype(np.float32)
    members = TRIGGERS[delta](jax.random.key(seed), moved(rows))
    if bool(members.violators.any()):
        return
    assert not bool(members.members.any())
    divergence = ((rows - rows.mean(0)) ** 2).sum(1).mean()
    assert divergence <= delta * (1 + 1e-5)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    scale=st.floats(0.1, 2.0),
    delta=st.sampled_from(sorted(TRIGGERS)),
)
def test_the_balancing_set_is_in_the_safe_zone_or_everyone(seed, scale, delta):
    rng = np.random.default_rng(seed)
    rows = (scale * rng.normal(size=(8, 3)) + rng.normal(size=3)).astype(np.float32)
    state = moved(rows, weights=rng.uniform(0.5, 2, 8).astype(np.float32))
    got = TRIGGERS[delta](jax.random.key(seed), state)
    violators = (rows.astype(np.float64) ** 2).sum(1) > delta
    np.testing.assert_array_equal(got.violators, violators)
    members = np.asarray(got.members)
    assert (members >= violators).all()
    if violators.any() and not members.all():
        mean = np.asarray(mean_of(state, got.members), np.float64)
        assert (mean**2).sum() <= delta * (1 + 1e-5)
    np.testing.assert_array_equal(got.polled, members & ~violators)
    if not violators.any():
        assert not members.any()


def test_augmentation_doubles_and_then_takes_everyone():
    # One far learner among 15 at rest: means of 1, 2, 4 members are outside, and the
    # mean of 8 (half of all) too, so that everyone is taken in.
    rows = np.zeros((16, 1))
    rows[3] = 100.0
    for delta, expected in ((2600.0, 2), (700.0, 4), (200.0, 8), (100.0, 16)):
        got = dynamic(delta)(jax.random.key(0), moved(rows))
        assert int(got.members.sum()) == expected, delta


def balanced(rows, draws, delta, balancing):
    """The members of a balancing set, by the platform's two rules, in plain Python."""
    members = {i for i, row in enumerate(rows) if (row**2).sum() > delta}
    everyone, joining = set(range(len(rows))), 1
    while members and members != everyone:
        mean = rows[sorted(members)].mean(0)
        if (mean**2).sum() <= delta:
            break
        if balancing == "triple":
            joining = 2 * len(members)
        waiting = sorted(everyone - members, key=lambda i: draws[i])
        size = len(members)
        grown = size + (joining if balancing == "triple" else 0)
        members |= everyone if grown >= len(rows) / 2 else set(waiting[:joining])
        joining *= 2
    return members


@pytest.mark.parametrize("balancing", ["augment", "triple"])
def test_balancing_sets_are_those_of_the_rule(balancing):
    trigger = jax.jit(dynamic(2.0, balancing=balancing))
    sizes = set()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        rows = rng.normal(scale=0.3, size=(25, 2))
        # One to three far ones, from barely to hopelessly so.
        far = rng.choice(25, rng.integers(1, 4), replace=False)
        rows[far] += [rng.choice([1.5, 3.0, 6.0, 15.0, 60.0]), 0]
        rows = rows.astype(np.float32)
        key = jax.random.key(seed)
        got = np.flatnonzero(trigger(key, moved(rows)).members)
        draws = np.asarray(jax.random.uniform(key, (25,)))
        assert set(got.tolist()) == balanced(rows, draws, 2.0, balancing), seed
        sizes.add(len(got))
    # The sizes from one violator on: 1, 2, 4, 8 or 1, 3, 9, and everyone.
    assert {2, 4, 8, 25} <= sizes if balancing == "augment" else {3, 9, 25} <= sizes


def test_everyone_is_asked_by_the_size_before_or_after_growing():
    # One far learner of ten. By the text 1, 2, 4 and 8 are tried, since 4 is less than
    # half; by the code 1 and 3, since 9 would be more.
    rows = np.zeros((10, 1))
    rows[3] = 100.0
    for delta, by_text, by_code in ((1200.0, 4, 3), (1000.0, 4, 10), (200.0, 8, 10)):
        for balancing, expected in (("augment", by_text), ("triple", by_code)):
            trigger = dynamic(delta, balancing=balancing)
            got = trigger(jax.random.key(0), moved(rows))
            assert int(got.members.sum()) == expected, (delta, balancing)


def test_polls_and_partial_averages_are_paid_for():
    first_two = jnp.arange(NUM_LEARNERS) < 2
    first = jnp.arange(NUM_LEARNERS) < 1

    def trigger(key, state):
        return Members(first_two, polled=first_two & ~first, violators=first)

    _, _, (info,) = run(trigger, rounds=1)
    assert totals(info.traffic).uplink_bytes == 2 * MODEL_BYTES
    # One learner is asked, and both members hear that the average is not of all.
    notices = 1 + 2
    assert totals(info.traffic).downlink_bytes == 2 * MODEL_BYTES + notices
    assert int(info.observed["violators"].value) == 1
    assert not bool(info.observed["full"].value)


def everyone(key, state):
    return Members(state.able, jnp.zeros_like(state.able), state.able)


def broken_cohort(learner):
    """The cohort with one learner's first example infinite."""
    row = int(COHORT.clients.rows[learner, 0, 0])
    x = COHORT.examples.x.at[row].set(jnp.inf)
    return COHORT._replace(examples=COHORT.examples._replace(x=x))


def test_a_learner_that_began_again_hears_of_a_new_reference_and_pays_for_it():
    server, clients, (info,) = run(everyone, rounds=1, cohort=broken_cohort(2))
    assert bool(info.observed["full"].value)
    assert int(info.dropped) == 1
    assert totals(info.traffic).uplink_messages == NUM_LEARNERS - 1
    assert totals(info.traffic).downlink_messages == NUM_LEARNERS
    for i in range(NUM_LEARNERS):
        own = jax.tree.map(lambda x, i=i: x[i], clients.learner.params)
        equal(own, server.reference)


def test_no_synchronisation_is_full_while_a_learner_is_away():
    active = jnp.arange(NUM_LEARNERS) != 1
    away = COHORT._replace(clients=COHORT.clients._replace(active=active))
    server, _, (info,) = run(everyone, rounds=1, cohort=away)
    assert not bool(info.observed["full"].value)
    # The model, and that it is not of all: they would take it for the new r.
    assert totals(info.traffic).downlink_messages == 2 * (NUM_LEARNERS - 1)
    assert info.traffic["partial_notices"].spoke.tolist() == active.tolist()
    start = TASK.init(jax.random.key(1))
    equal(server.reference, start)
    # The coordinator's own model is the last average, full or not.
    assert not np.array_equal(server.average["kernel"], start["kernel"])


def test_conditions_are_looked_at_on_what_was_sent():
    seen = []

    def look(key, state):
        jax.debug.callback(lambda d: seen.append(d), state.difference)
        return everyone(key, state)

    server, _, _ = run(look, rounds=1, uplink=qsgd(1))
    jax.effects_barrier()
    difference = jax.tree.map(np.asarray, seen[0])
    start = TASK.init(jax.random.key(1))
    weights = np.array([6, 4, 6, 2, 5, 6], np.float64) / 29
    for name in ("bias", "kernel"):
        # With one level every coordinate is 0 or plus or minus one number.
        for sent in difference[name]:
            assert len(np.unique(np.abs(sent[sent != 0]))) <= 1
        mean = np.tensordot(weights, difference[name].astype(np.float64), 1)
        np.testing.assert_allclose(
            server.reference[name], start[name] + mean, rtol=1e-5, atol=1e-6
        )


def test_losses_are_summed_before_each_update():
    """Against a loop in NumPy, float64: test on a batch, then train on it."""
    algorithm = model_averaging(TASK, periodic(), optimizer=optax.sgd(0.4))
    server, template = algorithm.init(jax.random.key(0), TASK.init(jax.random.key(1)))
    clients = stack_clients(template, NUM_LEARNERS)
    step = jax.jit(algorithm.round)
    total = 0.0
    for i in range(3):
        server, clients, info = step(jax.random.key(i), server, clients, COHORT)
        total += float(info.observed["loss_sum"].value)
    x, y = (np.asarray(a) for a in COHORT.examples)
    rows, mask = (np.asarray(a) for a in (COHORT.clients.rows, COHORT.clients.mask))
    weights = np.array([6, 4, 6, 2, 5, 6], np.float64) / 29
    start = {k: np.asarray(v, np.float64) for k, v in server_start().items()}
    expected, models = 0.0, [start] * NUM_LEARNERS
    for _ in range(3):
        trained = []
        for model, own_rows, own_mask in zip(models, rows, mask, strict=True):
            for batch, counted in zip(own_rows, own_mask, strict=True):
                chosen = batch[counted]
                if not len(chosen):
                    continue
                logits = x[chosen] @ model["kernel"] + model["bias"]
                p = np.exp(logits - logits.max(1, keepdims=True))
                p /= p.sum(1, keepdims=True)
                expected -= np.log(p[np.arange(len(chosen)), y[chosen]]).sum()
                p[np.arange(len(chosen)), y[chosen]] -= 1
                model = {
                    "bias": model["bias"] - 0.4 * p.mean(0),
                    "kernel": model["kernel"] - 0.4 * x[chosen].T @ p / len(chosen),
                }
            trained.append(model)
        mean = {
            k: sum(w * m[k] for w, m in zip(weights, trained, strict=True))
            for k in start
        }
        models = [mean] * NUM_LEARNERS
    np.testing.assert_allclose(total, expected, rtol=1e-5)


def server_start():
    return TASK.init(jax.random.key(1))


def test_the_violation_counter_forces_a_full_synchronisation():
    rows = np.array([[3.0], [-3.0], [0.0], [0.0]])
    few = dynamic(4.0, max_violations=5)(jax.random.key(0), moved(rows, violations=2))
    assert few.members.tolist() == [True, True, False, False]
    many = dynamic(4.0, max_violations=5)(jax.random.key(0), moved(rows, violations=3))
    assert many.members.all()
    paper = dynamic(4.0, max_violations="learners")
    for seen, everyone in ((1, False), (2, True)):
        got = paper(jax.random.key(0), moved(rows, violations=seen))
        assert bool(got.members.all()) == everyone
    basic = dynamic(4.0, balancing="all")(jax.random.key(0), moved(rows))
    assert basic.members.all()


def test_a_fraction_takes_that_many():
    got = periodic(0.5)(jax.random.key(0), moved(np.zeros((7, 1))))
    assert int(got.members.sum()) == 4
    able = [True, False, True, False, False, False, False]
    got = periodic(0.5)(jax.random.key(0), moved(np.zeros((7, 1)), able=able))
    assert got.members.tolist() == able


def test_mistakes_are_named():
    for delta in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="delta="):
            dynamic(delta)
    with pytest.raises(ValueError, match="balancing='some'"):
        dynamic(1.0, balancing="some")
    with pytest.raises(ValueError, match="max_violations=0"):
        dynamic(1.0, max_violations=0)
    with pytest.raises(ValueError, match="max_violations='some'"):
        dynamic(1.0, max_violations="some")
    with pytest.raises(ValueError, match=r"fraction=1\.5"):
        periodic(1.5)
