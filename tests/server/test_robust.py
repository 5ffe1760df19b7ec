"""Robust aggregators against NumPy, at their limits, and inside `fed_avg`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_comp.algorithms.fed_avg import fed_avg
from fedjax_comp.base import Compressor, LinkState
from fedjax_comp.compress import error_feedback, top_k
from fedjax_comp.execution import chunked, scanned, sharded, vmapped
from fedjax_comp.keys import make_key
from fedjax_comp.server import robust
from fedjax_comp.server.aggregate import share, weighted, weighted_mean
from fedjax_comp.server.robust_statistics import weighted_coordinate_median
from tests.problems import make_cohort, softmax_task, stack_clients

CLIENTS = 9


def median(x, weights):
    return np.median(x[weights > 0], axis=0)


def trimmed_mean(x, weights, fraction):
    counted = np.sort(x[weights > 0], axis=0)
    cut = int(fraction * len(counted) + 1e-9)
    return counted[cut : len(counted) - cut].mean(axis=0)


def krum(x, weights, bad, kept=1):
    counted = x[weights > 0]
    squares = ((counted[:, None] - counted[None]) ** 2).sum(axis=2)
    closest = np.sort(squares, axis=1)[:, 1 : len(counted) - bad - 1]
    chosen = np.argsort(closest.sum(axis=1), kind="stable")[:kept]
    return counted[chosen].mean(axis=0)


def geometric_median(x, weights):
    point = np.median(x, axis=0)
    for _ in range(3000):
        pull = weights / np.maximum(np.linalg.norm(x - point, axis=1), 1e-12)
        point = (pull[:, None] * x).sum(axis=0) / pull.sum()
    return point


TOGETHER = {
    "median": (robust.median(), median),
    "trimmed 0": (robust.trimmed_mean(0.0), lambda x, w: x[w > 0].mean(axis=0)),
    "trimmed 0.25": (
        robust.trimmed_mean(0.25),
        functools.partial(trimmed_mean, fraction=0.25),
    ),
    "krum": (robust.krum(2), functools.partial(krum, bad=2)),
    "multi-krum": (robust.krum(2, kept=3), functools.partial(krum, bad=2, kept=3)),
    "geometric median": (robust.geometric_median(iterations=300), geometric_median),
}


def updates(seed=0, clients=CLIENTS):
    return np.random.default_rng(seed).normal(size=(clients, 7)).astype(np.float32)


def as_tree(x):
    return {"a": jnp.asarray(x[:, :6].reshape(-1, 2, 3)), "b": jnp.asarray(x[:, 6])}


def together(aggregator, x, weights):
    run = jax.jit(aggregator.together)
    made = run(as_tree(x), jnp.asarray(weights, jnp.float32))
    return np.append(np.ravel(made["a"]), made["b"])


@pytest.mark.parametrize("name", TOGETHER)
@pytest.mark.parametrize("missing", [(), (0,), (3, 8)])
def test_equals_numpy_over_those_who_counted(name, missing):
    aggregator, reference = TOGETHER[name]
    x, weights = updates(), np.arange(1.0, CLIENTS + 1)
    for i in missing:
        x[i], weights[i] = 0.0, 0.0
    expected = reference(x.astype(np.float64), weights)
    np.testing.assert_allclose(
        together(aggregator, x, weights), expected, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("name", TOGETHER)
def test_it_does_not_matter_who_is_who(name):
    aggregator, _ = TOGETHER[name]
    x, weights = updates(1), np.arange(1.0, CLIENTS + 1)
    order = np.random.default_rng(2).permutation(CLIENTS)
    np.testing.assert_allclose(
        together(aggregator, x[order], weights[order]),
        together(aggregator, x, weights),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("name", TOGETHER)
def test_of_equal_updates_it_is_that_update(name):
    aggregator, _ = TOGETHER[name]
    x = np.repeat(updates(3, clients=1), CLIENTS, axis=0)
    np.testing.assert_allclose(
        together(aggregator, x, np.ones(CLIENTS)), x[0], rtol=1e-6
    )


@pytest.mark.parametrize("name", [n for n in TOGETHER if n != "trimmed 0"])
@pytest.mark.parametrize("huge", [1e6, 1e38, 3e38])
def test_two_of_nine_do_not_lead_it_away(name, huge):
    aggregator, _ = TOGETHER[name]
    x = updates(4)
    low, high = x[2:].min(axis=0), x[2:].max(axis=0)
    x[0], x[1] = huge, -huge
    made = together(aggregator, x, np.ones(CLIENTS))
    assert (made >= low - 1e-5).all()
    assert (made <= high + 1e-5).all()
    x[1] = huge  # and when they agree
    made = together(aggregator, x, np.ones(CLIENTS))
    assert (made <= high + 1e-5).all()


@pytest.mark.parametrize("huge", [100.0, 1e6, 1e38, 3e38])
def test_many_who_weigh_less_than_half_do_not_lead_the_geometric_median(huge):
    x = updates(7)
    weights = np.where(np.arange(CLIENTS) < 5, 1.0, 20.0)
    x[:5] = huge  # more than half of the clients, a seventeenth of the weight
    low, high = x[5:].min(axis=0), x[5:].max(axis=0)
    made = together(robust.geometric_median(), x, weights)
    assert (made >= low - 1e-5).all()
    assert (made <= high + 0.1).all()  # five of 85 pull as hard, from any distance


def test_weighted_median_is_that_of_repeated_values():
    rng = np.random.default_rng(8)
    x, weights = updates(8), rng.integers(0, 4, CLIENTS)
    x[:, 0] = np.round(x[:, 0])  # ties
    made = weighted_coordinate_median(jnp.asarray(x), jnp.asarray(weights, jnp.float32))
    expected = np.median(np.repeat(x, weights, axis=0), axis=0)
    np.testing.assert_allclose(made, expected, rtol=1e-6)


@pytest.mark.parametrize("name", TOGETHER)
def test_nobody_counted_is_zeros(name):
    aggregator, _ = TOGETHER[name]
    nothing = np.zeros((CLIENTS, 7), np.float32)
    np.testing.assert_array_equal(
        together(aggregator, nothing, np.zeros(CLIENTS)), np.zeros(7)
    )


@pytest.mark.parametrize("name", TOGETHER)
@pytest.mark.parametrize("counted", [1, 2, 3])
def test_the_few_who_count_are_enough(name, counted):
    aggregator, _ = TOGETHER[name]
    x, weights = updates(5), (np.arange(CLIENTS) >= CLIENTS - counted).astype(float)
    x[weights == 0] = 0.0
    made = together(aggregator, x, weights)
    assert (made >= x[-counted:].min(axis=0) - 1e-6).all()
    assert (made <= x[-counted:].max(axis=0) + 1e-6).all()


def test_krum_is_one_of_the_updates_bit_for_bit():
    x = updates(6)
    made = together(robust.krum(2), x, np.ones(CLIENTS))
    assert (made == x).all(axis=1).sum() == 1


def test_the_trimmed_share_is_that_of_decimals():
    # 0.29 * 100 is 28.999999 in binary: 29 are to go at either end.
    x = np.arange(100.0, dtype=np.float32)[:, None] ** 2
    made = robust.trimmed_mean(0.29).together(jnp.asarray(x), jnp.ones(100))
    np.testing.assert_allclose(made, x[29:71].mean(axis=0), rtol=1e-6)


def test_norm_bound_shortens_only_what_is_longer():
    bound = jax.jit(robust.norm_bound(2.0).each)
    short = {"a": jnp.array([0.6]), "b": jnp.array([[-0.8]])}
    jax.tree.map(np.testing.assert_array_equal, bound(short), short)
    for factor in (3.0, 1e20, 3e38):
        got = bound(jax.tree.map(lambda x, f=factor: f * x, short))
        np.testing.assert_allclose(got["a"], [1.2], rtol=1e-6)
        np.testing.assert_allclose(got["b"], [[-1.6]], rtol=1e-6)
    zeros = jax.tree.map(jnp.zeros_like, short)
    jax.tree.map(np.testing.assert_array_equal, bound(zeros), zeros)


@pytest.mark.parametrize("exponent", [*range(-100, 90, 19), 20, 21])
@pytest.mark.parametrize("above", [1.0, 1.9])
def test_norm_bound_counts_what_lies_beside_a_much_larger_number(exponent, above):
    # At any size: a unit that suits the largest alone would lose the others' squares.
    x = np.full(100_000, 0.05, np.float32)
    x[0] = 1.0
    x = np.float32(above * 2.0**exponent) * x
    norm = float(np.linalg.norm(x.astype(np.float64)))
    got = jax.jit(robust.norm_bound(norm / 8).each)({"w": jnp.asarray(x)})["w"]
    np.testing.assert_allclose(got, x / 8, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: robust.norm_bound(0.0), "norm=0.0"),
        (lambda: robust.norm_bound(float("nan")), "norm=nan"),
        (lambda: robust.trimmed_mean(0.5), "fraction=0.5"),
        (lambda: robust.trimmed_mean(-0.1), "fraction=-0.1"),
        (lambda: robust.krum(-1), "bad_clients=-1"),
        (lambda: robust.krum(1, kept=0), "kept=0"),
        (lambda: robust.geometric_median(iterations=0), "iterations=0"),
        (lambda: robust.geometric_median(smoothing=0.0), "smoothing=0.0"),
        (lambda: robust.require_clients(robust.krum(2), 6), "at least 7 clients"),
        (lambda: robust.require_clients(robust.krum(1, kept=9), 9), "at least 10"),
    ],
)
def test_a_mistake_is_one_line(make, expected):
    with pytest.raises(ValueError, match=expected) as error:
        make()
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------- inside fed_avg

SIZES = [6, 3, 9, 4, 5, 7, 0]
PARAMS = softmax_task().init(jax.random.key(1))
EXECUTIONS = {
    "scanned": scanned(),
    "vmapped": vmapped(),
    "chunked": chunked(3),
    "sharded": sharded(),
}


def sends(rank, what):
    """An uplink over which the client at that place sends something of its own."""

    def encode(context, tree, sender):
        bad = context.rank == rank
        return jax.tree.map(lambda x: jnp.where(bad, what(x), x), tree), sender

    stateless = LinkState((), ())
    return Compressor(lambda like: stateless, encode, lambda c, p, s: (p, s))


def one_round(aggregation, cohort, execution=None, **options):
    algorithm = fed_avg(
        softmax_task(),
        client_optimizer=optax.sgd(0.3),
        aggregation=aggregation,
        execution=EXECUTIONS["scanned"] if execution is None else execution,
        **options,
    )
    server, template = algorithm.init(make_key(2), PARAMS)
    clients = stack_clients(template, cohort.clients.client_id.shape[0])
    server, _, info = jax.jit(algorithm.round)(make_key(3), server, clients, cohort)
    return algorithm.params(server), info


@functools.cache
def decoded(uplink=None):
    """What the server decodes of each client, `[C, ...]`, and their weights."""
    cohort = make_cohort(SIZES, batch_size=3)
    _, info = one_round(weighted_mean, cohort, uplink=uplink, keep_messages=True)
    weights = share(jnp.where(cohort.clients.active, cohort.clients.num_examples, 0))
    return info.messages["uplink"].used, weights


AGGREGATIONS = {
    "median": robust.median(),
    "trimmed": robust.trimmed_mean(0.2),
    "krum": robust.krum(1),
    "geometric": robust.geometric_median(),
}


@pytest.mark.thorough
@pytest.mark.parametrize("execution", EXECUTIONS)
def test_the_server_steps_by_what_is_made_of_the_decoded(execution):
    uplink = error_feedback(top_k(0.5))
    used, weights = decoded(uplink)
    keep = jax.vmap(lambda x, w: jax.tree.map(lambda a: jnp.where(w > 0, a, 0), x))
    for name in AGGREGATIONS if execution == "scanned" else ["median"]:
        aggregator = AGGREGATIONS[name]
        cohort = make_cohort(SIZES, batch_size=3)
        got, _ = one_round(aggregator, cohort, EXECUTIONS[execution], uplink=uplink)
        moved = aggregator.together(keep(used, weights), weights)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
            got,
            optax.tree.add(PARAMS, moved),
        )


def test_bounded_updates_are_added_up_by_weight():
    norm = 0.05
    used, weights = decoded()
    total = None
    for i, weight in enumerate(weights):
        own = jax.tree.map(lambda x, i=i: x[i], used)
        shorter = min(1.0, norm / max(float(optax.tree.norm(own)), norm))
        own = optax.tree.scale(shorter, own)
        part = weighted(own, weight, weight > 0)
        total = part if total is None else optax.tree.add(total, part)
    cohort = make_cohort(SIZES, batch_size=3)
    got, info = one_round(robust.norm_bound(norm), cohort)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        got,
        optax.tree.add(PARAMS, weighted_mean(total)),
    )
    # No update is longer than a bound of 1e9: then it is the mean.
    loose, _ = one_round(robust.norm_bound(1e9), cohort)
    mean, _ = one_round(weighted_mean, cohort)
    jax.tree.map(np.testing.assert_array_equal, loose, mean)
    assert info.messages == {}


@pytest.mark.parametrize("name", [*AGGREGATIONS, "norm bound"])
def test_who_sends_nan_is_left_out_and_who_sends_huge_is_outvoted(name):
    aggregator = {**AGGREGATIONS, "norm bound": robust.norm_bound(0.1)}[name]
    cohort = make_cohort(SIZES, batch_size=3)
    for what, dropped in ((lambda x: x * jnp.nan, 1), (lambda x: x * 0 + 1e38, 0)):
        got, info = one_round(aggregator, cohort, uplink=sends(2, what))
        moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), got, PARAMS)
        assert max(map(float, jax.tree.leaves(moved))) < 1.0
        assert int(info.dropped) == dropped


def test_nobody_there_leaves_the_model():
    cohort = make_cohort(SIZES, batch_size=3)
    idle = cohort.clients._replace(active=jnp.zeros(len(SIZES), bool))
    got, info = one_round(robust.median(), cohort._replace(clients=idle))
    jax.tree.map(np.testing.assert_array_equal, got, PARAMS)
    assert int(info.dropped) == 0


def test_a_cohort_too_small_is_refused():
    with pytest.raises(ValueError, match="at least 9 clients"):
        one_round(robust.krum(3), make_cohort(SIZES, batch_size=3))


def test_half_precision_models_stay_what_they_are():
    cohort = make_cohort(SIZES, batch_size=3)
    algorithm = fed_avg(
        softmax_task(), client_optimizer=optax.sgd(0.3), aggregation=robust.median()
    )
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)
    server, template = algorithm.init(make_key(2), half)
    clients = stack_clients(template, len(SIZES))
    server, _, _ = jax.jit(algorithm.round)(make_key(3), server, clients, cohort)
    got, expected = algorithm.params(server), one_round(robust.median(), cohort)[0]
    for name, leaf in got.items():
        assert leaf.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.float32(leaf), expected[name], atol=0.01)
