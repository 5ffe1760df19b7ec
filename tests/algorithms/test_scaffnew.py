"""Scaffnew: against NumPy step by step, its theorem, its acceleration, its limits."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_comp.algorithms import fed_avg, scaffnew
from fedjax_comp.algorithms.scaffnew import drawn_steps
from fedjax_comp.base import Examples
from tests.algorithms.test_scaffold import CURVES, SIZE, TARGETS
from tests.algorithms.test_soundness import pull_task, pulled
from tests.algorithms.test_soundness import run as soundly
from tests.problems import make_cohort, quadratics, softmax_task, stack_clients

RATE, WEIGHTS = 0.2, np.array([2.0, 1.0, 3.0])


def cohort(curves=CURVES, targets=TARGETS, weights=WEIGHTS, most=60):
    """Clients of one example each, `most` steps of it, and what they weigh."""
    found = make_cohort([1] * len(curves), batch_size=1, epochs=most)
    return found._replace(
        examples=Examples(jnp.asarray(targets), jnp.asarray(curves)),
        clients=found.clients._replace(num_examples=jnp.asarray(weights, jnp.int32)),
    )


def make(algorithm=scaffnew, rate=RATE, probability=0.25, population=3):
    own = {"client_optimizer": optax.sgd(rate)}
    if algorithm is scaffnew:
        own |= {"population": population, "probability": probability}
    return algorithm(quadratics(SIZE), **own)


def run(algorithm, each, rounds, seeds=0):
    """The model, the clients' states and what was observed, after each of the rounds.

    Of several seeds there is a leading axis.
    """
    size = each.examples.x.shape[-1]
    params = {"w": jnp.zeros(size)}

    def go(seed):
        key = jax.random.key(seed)
        server, client = algorithm.init(key, params)
        clients = stack_clients(client, len(each.examples.y))

        def step(carry, key):
            server, clients, info = algorithm.round(key, *carry, each)
            seen = {name: x.value for name, x in info.observed.items()}
            model = algorithm.params(server)["w"]
            return (server, clients), (model, clients, seen, info.dropped)

        _, seen = jax.lax.scan(step, (server, clients), jax.random.split(key, rounds))
        return seen

    models, clients, seen, dropped = jax.jit(
        go if np.ndim(seeds) == 0 else jax.vmap(go)
    )(jnp.asarray(seeds))
    assert not np.asarray(dropped).any()
    return np.asarray(models), clients, {k: np.asarray(v) for k, v in seen.items()}


def optimum(curves, targets, weights):
    pull = (np.asarray(weights, float) * curves)[:, None]
    return (pull * targets).sum(axis=0) / pull.sum()


def test_it_is_the_papers_algorithm_step_by_step():
    p, shares = 0.25, WEIGHTS / WEIGHTS.sum()
    models, clients, seen = run(make(probability=p), cohort(), 12)
    lengths = seen["local_steps"]
    assert len(set(lengths.tolist())) > 3
    coins = np.concatenate([np.eye(n)[-1] for n in lengths.astype(int)])
    x, h, averages, controls = np.zeros((3, SIZE)), np.zeros((3, SIZE)), [], []
    for coin in coins:
        ahead = x - RATE * (CURVES[:, None] * (x - TARGETS) - h)
        x = np.tile(shares @ ahead, (3, 1)) if coin else ahead
        h = h + p / RATE * (x - ahead)
        if coin:
            averages.append(x[0])
            controls.append(h)
    np.testing.assert_allclose(models, averages, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(clients.control["w"], controls, rtol=1e-4, atol=1e-5)


def test_it_comes_to_the_optimum_linearly_and_fed_avg_does_not():
    best = optimum(CURVES, TARGETS, WEIGHTS)
    rounds = 200
    models, clients, _ = run(make(), cohort(), rounds)
    np.testing.assert_allclose(models[-1], best, atol=2e-6)
    # There every h_i is the gradient of its client.
    gradients = CURVES[:, None] * (best - TARGETS)
    np.testing.assert_allclose(clients.control["w"][-1], gradients, atol=1e-5)
    # FedAvg's fixed point: each client goes a share 1 - (1 - eta a_i)^S of the way.
    way = 1 - (1 - RATE * CURVES) ** 4
    biased = optimum(way, TARGETS, WEIGHTS)
    averaged, _, _ = run(make(fed_avg), cohort(most=4), rounds)
    np.testing.assert_allclose(averaged[-1], biased, atol=1e-5)
    bias = np.linalg.norm(biased - best)
    assert bias > 0.05 > 1e4 * np.linalg.norm(models[-1] - best)


@pytest.mark.parametrize("p", [0.2, 0.6])
def test_the_theorem_holds_of_every_round(p):
    # Psi_t / (1 - zeta)^t has an expectation that never grows; so it is at the end of
    # a round, whose t is a stopping time. A fraction (1 - p)^60 < 2e-6 is cut.
    rate, shares = 1 / CURVES.max(), WEIGHTS / WEIGHTS.sum()
    shrink = 1 - min(rate * CURVES.min(), p**2)
    best = optimum(CURVES, TARGETS, WEIGHTS)
    gradients = CURVES[:, None] * (best - TARGETS)

    def psi(models, controls):
        far = shares @ ((controls - gradients) ** 2).sum(axis=-1)[..., None]
        return ((models - best) ** 2).sum(axis=-1) + (rate / p) ** 2 * far[..., 0]

    first = psi(np.zeros(SIZE), np.zeros((3, SIZE)))
    algorithm = make(rate=rate, probability=p)
    models, clients, seen = run(algorithm, cohort(), 8, range(32))
    steps = np.cumsum(seen["local_steps"], axis=1)
    left = psi(models, np.asarray(clients.control["w"], float)) / first
    assert (left / shrink**steps).mean(axis=0).max() <= 1
    assert 1e-9 < left[:, -1].mean() < 0.2


def valleys(kappa):
    """Two clients whose curvatures lie between 1 / kappa and 1, and their optimum.

    Both are flat along the second axis, and one of them along each of the others.
    """
    flat = 1 / kappa
    curves = np.array([[1.0, flat, flat], [1.0, flat, 1.0]], np.float32)
    targets = np.array([[3.0, 1.0, -2.0], [-1.0, 3.0, 1.0]], np.float32)
    best = (curves * targets).sum(axis=0) / curves.sum(axis=0)
    return curves, targets, best


def diagonals():
    """Client `i` has `sum_k a_ik / 2 (w_k - t_ik)^2`; an example is `(a_i, t_i)`."""

    def loss(params, examples, mask, key):
        del key
        curves, targets = examples.x[:, 0], examples.x[:, 1]
        each = jnp.sum(curves * (params["w"][None] - targets) ** 2, axis=1) / 2
        count = jnp.maximum(mask.sum(dtype=jnp.float32), 1)
        return jnp.where(mask, each, 0).sum() / count

    return quadratics(SIZE)._replace(loss=loss)


def rounds_to(accuracy, kappa, probability, rounds, seeds=(0,)):
    """Of gradient steps of 1 / L = 1, until the error is so much of what it was.

    The mean over the seeds.
    """
    curves, targets, best = valleys(kappa)
    algorithm = scaffnew(
        diagonals(),
        client_optimizer=optax.sgd(1.0),
        population=2,
        probability=probability,
    )
    each = cohort(np.ones(2), np.zeros((2, 3)), (1, 1), most=round(5 / probability))
    if probability == 1:
        each = cohort(np.ones(2), np.zeros((2, 3)), (1, 1), most=1)
    both = jnp.asarray(np.stack([curves, targets], axis=1))
    each = each._replace(examples=Examples(both, each.examples.y))
    models, _, _ = run(algorithm, each, rounds, seeds)
    far = np.linalg.norm(models - best, axis=-1) > accuracy * np.linalg.norm(best)
    assert not far[:, -1].any()
    return np.mean([1 + np.flatnonzero(one)[-1] for one in far])


@pytest.mark.thorough
def test_rounds_grow_as_the_root_of_the_condition_number():
    accuracy, few, many = 1e-2, 16, 144
    descent = [rounds_to(accuracy, k, 1.0, round(6 * k)) for k in (few, many)]
    ours = [
        rounds_to(accuracy, k, k**-0.5, round(15 * k**0.5), range(4))
        for k in (few, many)
    ]
    for kappa, mean in zip((few, many), ours, strict=True):
        # Theorem 3.6 with gamma = 1 and p^2 = 1 / kappa: kappa log(Psi_0 / e^2) steps,
        # of which one in sqrt(kappa) is followed by an average.
        curves, targets, best = valleys(kappa)
        drift = kappa * ((curves * (best - targets)) ** 2).sum() / 2
        first = (best**2).sum() + drift
        end = accuracy**2 * (best**2).sum()
        assert mean < kappa**0.5 * np.log(first / end)
    assert descent[1] / descent[0] > 0.9 * many / few
    assert ours[1] / ours[0] < 1.5 * (many / few) ** 0.5
    assert descent[1] > 5 * ours[1]


def test_a_coin_that_never_fails_is_gradient_descent():
    w, shares = np.zeros(SIZE), WEIGHTS / WEIGHTS.sum()
    expected = []
    for _ in range(6):
        w = w - RATE * (shares * CURVES) @ (w - TARGETS)
        expected.append(w)
    models, _, seen = run(make(probability=1.0), cohort(), 6)
    np.testing.assert_allclose(models, expected, rtol=1e-5, atol=1e-6)
    assert set(seen["local_steps"].tolist()) == {1}
    averaged, _, _ = run(make(fed_avg), cohort(most=1), 6)
    np.testing.assert_allclose(models, averaged, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_lengths_of_rounds_are_geometric_and_cut(p):
    count, most = 4096, 12
    keys = jax.random.split(jax.random.key(1), count)
    steps, cut = jax.jit(jax.vmap(lambda key: drawn_steps(key, p, most)))(keys)
    t = np.arange(1, most + 1)
    chances = np.append(p * (1 - p) ** (t - 1), (1 - p) ** most)
    seen = np.bincount(np.asarray(steps)[~np.asarray(cut)], minlength=most + 1)[1:]
    seen = np.append(seen, np.asarray(cut).sum()) / count
    assert (np.abs(seen - chances) < 6 * np.sqrt(chances / count)).all()
    assert (np.asarray(steps)[np.asarray(cut)] == most).all()


def test_the_sum_of_control_variates_stays_zero():
    _, clients, _ = run(make(probability=0.3), cohort(), 50)
    controls = np.asarray(clients.control["w"], float)
    total = np.einsum("i,rin->rn", WEIGHTS, controls)
    # A rounding of each of three numbers below `size` a round.
    size = WEIGHTS.max() * np.abs(controls).max()
    bound = 3 * 50 * np.finfo(np.float32).eps * size * 4
    assert np.abs(total).max() < bound < 1e-2 * size
    assert np.abs(controls).max() > 0.1


def test_who_stays_away_keeps_its_control_and_the_sum():
    algorithm, every = make(), cohort()
    _, clients, _ = run(algorithm, every, 3)
    clients = jax.tree.map(lambda x: x[-1], clients)
    away = every.clients._replace(active=jnp.array([True, True, False]))
    _, after, info = jax.jit(algorithm.round)(
        jax.random.key(5),
        {"w": jnp.ones(SIZE)},
        clients,
        every._replace(clients=away),
    )
    before, control = (np.asarray(x.control["w"]) for x in (clients, after))
    np.testing.assert_array_equal(control[2], before[2])
    assert np.abs(control[:2] - before[:2]).max() > 1e-3
    np.testing.assert_allclose(WEIGHTS @ control, 0, atol=1e-5)
    # It hears the model all the same, and says nothing.
    assert info.traffic["uplink"].spoke.tolist() == [True, True, False]
    assert info.traffic["downlink"].spoke.tolist() == [True, True, True]
    for traffic in info.traffic.values():
        assert traffic.bits.fixed == 32 * SIZE


def test_a_client_without_a_step_keeps_its_control():
    algorithm, every = make(), cohort()
    _, clients, _ = run(algorithm, every, 3)
    clients = jax.tree.map(lambda x: x[-1], clients)
    idle = every.clients._replace(mask=every.clients.mask.at[0].set(False))
    _, after, info = jax.jit(algorithm.round)(
        jax.random.key(5),
        {"w": jnp.ones(SIZE)},
        clients,
        every._replace(clients=idle),
    )
    before, control = (np.asarray(x.control["w"]) for x in (clients, after))
    np.testing.assert_array_equal(control[0], before[0])
    assert np.abs(control[1:] - before[1:]).max() > 1e-3
    assert info.traffic["uplink"].spoke.tolist() == [False, True, True]
    assert int(info.dropped) == 0


def test_a_control_variate_that_would_not_be_finite_is_refused():
    algorithm = scaffnew(
        pull_task(), client_optimizer=optax.sgd(1e-20), population=2, probability=1.0
    )
    # Gradients of opposite signs: the one that hardly counts is to add 2 pull to 0.
    for pull, dropped in ((1e38, 0), (2.5e38, 2)):
        each = pulled([pull, -pull], [1000, 1])
        after, clients, info = soundly(algorithm, each)
        assert int(info.dropped) == dropped
        assert (np.abs(after).max() == 0) == bool(dropped)
        assert (np.abs(clients.control[1]).max() == 0) == bool(dropped)
        assert info.traffic["uplink"].spoke.all()


def test_half_precision_keeps_the_sum():
    task = softmax_task()
    algorithm = scaffnew(
        task, client_optimizer=optax.sgd(0.1), population=3, probability=0.5
    )
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), task.init(jax.random.key(0)))
    server, client = algorithm.init(jax.random.key(0), half)
    clients, step = stack_clients(client, 3), jax.jit(algorithm.round)
    each = make_cohort([2, 5, 3], batch_size=1)
    for i in range(4):
        server, clients, _ = step(jax.random.key(i), server, clients, each)
    for leaf in jax.tree.leaves(clients.control):
        assert leaf.dtype == jnp.float32
        size = np.abs(leaf).max()
        assert size > 0.01
        total = np.tensordot([2.0, 5.0, 3.0], leaf, axes=1)
        np.testing.assert_allclose(total, 0, atol=1e-4 * size)


def test_a_part_of_the_clients_is_refused():
    algorithm = make(population=4)
    server, client = algorithm.init(jax.random.key(0), {"w": jnp.zeros(SIZE)})
    message = "all population=4 clients .*, got 3: .*; make it cohort_size=4, or"
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(
            algorithm.round,
            jax.random.key(0),
            server,
            stack_clients(client, 3),
            cohort(),
        )


def test_rates_of_a_round_are_refused():
    algorithm, each = make(), cohort()
    clients = each.clients._replace(rate=jnp.ones(3))
    server, client = algorithm.init(jax.random.key(0), {"w": jnp.zeros(SIZE)})
    with pytest.raises(ValueError, match=r"for scaffnew\(\), .* out\.(\n|$)"):
        jax.eval_shape(
            algorithm.round,
            jax.random.key(0),
            server,
            stack_clients(client, 3),
            each._replace(clients=clients),
        )


@pytest.mark.parametrize("probability", [0, -0.5, 1.5, float("nan"), True])
def test_what_is_no_probability_is_refused(probability):
    with pytest.raises(ValueError, match=f"probability={probability}"):
        make(probability=probability)
