"""Running statistics: moved on by local steps, averaged, and read in evaluation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

from fedjax_comp.algorithms import (
    fed_avg,
    fed_distill,
    fed_dyn,
    fed_nova,
    fed_zeroth_order,
    fetch_sgd,
    lazy_gradients,
    locodl,
    marina,
    optimal_sampling,
    scaffnew,
    synchronous,
)
from fedjax_comp.algorithms.fed_avg_naive import fed_avg_naive
from fedjax_comp.algorithms.synchronous import Step
from fedjax_comp.base import STATISTICS, Examples
from fedjax_comp.client.sgd import local_sgd
from fedjax_comp.compress import qsgd, random_k
from fedjax_comp.models import classification
from fedjax_comp.models.augment import augmented
from fedjax_comp.models.frozen import frozen, low_rank_adapted
from fedjax_comp.models.network import of_nnx
from fedjax_comp.models.regression import regression
from fedjax_comp.server.aggregate import majority_vote
from tests.problems import NUM_CLASSES, NUM_FEATURES, make_cohort, stack_clients

MOMENTUM = 0.9
KEY = jax.random.key(1)


class Normalized(nn.Module):
    """Batch normalisation before a linear layer, in linen."""

    @nn.compact
    def __call__(self, x, train=False):
        norm = nn.BatchNorm(use_running_average=not train, momentum=MOMENTUM)
        return nn.Dense(NUM_CLASSES)(norm(x))


class InNnx(nnx.Module):
    """The same in nnx."""

    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(NUM_FEATURES, momentum=MOMENTUM, rngs=rngs)
        self.last = nnx.Linear(NUM_FEATURES, NUM_CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.last(self.norm(x))


MODELS = {"linen": Normalized(), "nnx": of_nnx(lambda rngs: InNnx(rngs))}
TASKS = {
    name: classification(model, input_shape=(NUM_FEATURES,))
    for name, model in MODELS.items()
}


def statistics(params):
    """Running mean and variance, whatever the layer is called."""
    (layer,) = params[STATISTICS].values()
    return np.asarray(layer["mean"]), np.asarray(layer["var"])


def one_round(algorithm, params, cohort):
    server, client = algorithm.init(KEY, params)
    clients = stack_clients(client, cohort.clients.client_id.shape[0])
    server, _, info = jax.jit(algorithm.round)(KEY, server, clients, cohort)
    assert int(info.dropped) == 0
    return algorithm.params(server)


@pytest.mark.parametrize("name", TASKS)
def test_they_are_those_of_the_batches_in_numpy(name):
    # One client, its last batch short: 2 + 2 + 1 examples.
    cohort = make_cohort([5], batch_size=2)
    task = TASKS[name]
    after = one_round(
        fed_avg(task, client_optimizer=optax.sgd(0.1)), task.init(KEY), cohort
    )
    mean, var = np.zeros(NUM_FEATURES), np.ones(NUM_FEATURES)
    x = np.asarray(cohort.examples.x, np.float64)
    for rows in (x[0:2], x[2:4], x[4:5]):
        mean = MOMENTUM * mean + (1 - MOMENTUM) * rows.mean(0)
        var = MOMENTUM * var + (1 - MOMENTUM) * rows.var(0)
    np.testing.assert_allclose(statistics(after)[0], mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(statistics(after)[1], var, rtol=1e-4, atol=1e-6)


def test_a_regression_moves_them_on_and_counts_no_padding():
    task = regression(MODELS["linen"], input_shape=(NUM_FEATURES,), within=0.1)
    x = np.random.default_rng(0).normal(3, 2, (4, NUM_FEATURES)).astype(np.float32)
    examples = Examples(jnp.asarray(x), jnp.zeros((4, NUM_CLASSES)))
    params, mask = task.init(KEY), jnp.array([True, False, True, False])
    after = task.observe(params, params, examples, mask, KEY)
    mean, var = statistics(after)
    np.testing.assert_allclose(mean, (1 - MOMENTUM) * x[::2].mean(0), rtol=1e-5)
    own = MOMENTUM + (1 - MOMENTUM) * x[::2].var(0)
    np.testing.assert_allclose(var, own, rtol=1e-5)
    # The loss normalises by the same two examples: each feature is then -1 or 1.
    layer = params["params"]["Dense_0"]
    normal = np.sign(x[::2] - x[::2].mean(0))
    expected = (normal @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])) ** 2
    found = task.loss(params, examples, mask, KEY)
    np.testing.assert_allclose(found, expected.mean(), rtol=1e-3)


@pytest.mark.thorough
@pytest.mark.parametrize("name", TASKS)
def test_evaluation_reads_them_and_changes_nothing(name):
    task = TASKS[name]
    params = task.init(KEY)
    (layer,) = params[STATISTICS]
    own = {"mean": jnp.full(NUM_FEATURES, 3.0), "var": jnp.full(NUM_FEATURES, 4.0)}
    moved = {**params, STATISTICS: {layer: own}}
    x = np.random.default_rng(0).normal(size=(4, NUM_FEATURES)).astype(np.float32)
    mask = jnp.ones(4, bool)
    for shown, at in ((x, params), (2 * x + 3, moved)):
        examples = Examples(jnp.asarray(shown), jnp.array([0, 1, 2, 0]))
        found = float(task.evaluate(at, examples, mask)["loss"])
        expected = float(
            task.evaluate(params, examples._replace(x=jnp.asarray(x)), mask)["loss"]
        )
        np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.thorough
def test_a_round_is_that_of_the_loop_that_can_be_read():
    cohort = make_cohort([4, 2, 5], batch_size=2, epochs=2)
    task = augmented(TASKS["linen"], lambda key, x: x + jax.random.normal(key, x.shape))
    params = task.init(KEY)
    optimizer = optax.sgd(0.3)
    got = one_round(fed_avg(task, client_optimizer=optimizer), params, cohort)
    expected = fed_avg_naive(task, params, cohort, client_optimizer=optimizer)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        got,
        expected,
    )


def test_a_server_optimizer_averages_them():
    cohort, task = make_cohort([4, 4], batch_size=2), TASKS["linen"]
    params, optimizer = task.init(KEY), optax.sgd(0.1)
    plain = one_round(fed_avg(task, client_optimizer=optimizer), params, cohort)
    stepped = one_round(
        fed_avg(task, client_optimizer=optimizer, server_optimizer=optax.sgd(0.25)),
        params,
        cohort,
    )
    np.testing.assert_allclose(statistics(stepped), statistics(plain), rtol=1e-6)
    moved = jax.tree.map(
        lambda a, b: float(jnp.abs(a - b).max()), plain["params"], stepped["params"]
    )
    assert min(jax.tree.leaves(moved)) > 0


def test_a_step_of_ones_own_leaves_them_to_their_mean():
    cohort, task = make_cohort([4, 4], batch_size=2), TASKS["linen"]
    params, train = task.init(KEY), local_sgd(task, optax.sgd(0.1))
    plain = one_round(fed_avg(task, client_optimizer=optax.sgd(0.1)), params, cohort)
    algorithm = synchronous(
        train, lambda w, memory, mean, beside: Step(optax.tree.add_scale(w, 3.0, mean))
    )
    extrapolated = one_round(algorithm, params, cohort)
    np.testing.assert_allclose(statistics(extrapolated), statistics(plain), rtol=1e-6)
    moved, threefold = (
        optax.tree.sub(x["params"], params["params"]) for x in (plain, extrapolated)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(3 * a, b, rtol=1e-4, atol=1e-6),
        moved,
        threefold,
    )


@pytest.mark.thorough
def test_a_variance_below_zero_is_none():
    task = TASKS["linen"]
    params = task.init(KEY)
    (layer,) = params[STATISTICS]
    below = {**params[STATISTICS][layer], "var": jnp.full(NUM_FEATURES, -1.0)}
    params = {**params, STATISTICS: {layer: below}}
    examples = Examples(jnp.ones((2, NUM_FEATURES)), jnp.array([0, 1]))
    sums = task.evaluate(params, examples, jnp.ones(2, bool))
    assert bool(jnp.isfinite(sums["loss"]))
    cohort = make_cohort([4], batch_size=2)
    algorithm = fed_avg(task, client_optimizer=optax.sgd(0.1), uplink=qsgd(1))
    after = one_round(algorithm, task.init(KEY), cohort)
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(after))


@pytest.mark.parametrize(
    "use",
    [
        lambda task: fed_dyn(
            task, client_optimizer=optax.sgd(0.1), population=2, alpha=0.1
        ).init(KEY, task.init(KEY)),
        lambda task: lazy_gradients(task, optimizer=optax.sgd(0.1)).init(
            KEY, task.init(KEY)
        ),
        lambda task: fed_avg(
            task, client_optimizer=optax.sgd(0.1), aggregation=majority_vote
        ).init(KEY, task.init(KEY)),
        lambda task: fed_nova(task, client_optimizer=optax.sgd(0.1)).init(
            KEY, task.init(KEY)
        ),
        lambda task: fed_zeroth_order(task, client_optimizer=optax.sgd(0.1)).init(
            KEY, task.init(KEY)
        ),
        lambda task: fetch_sgd(
            task, client_optimizer=optax.sgd(0.1), rows=1, columns=3, k=1
        ).init(KEY, task.init(KEY)),
        lambda task: marina(
            task, client_optimizer=optax.sgd(0.1), uplink=random_k(0.5), probability=0.1
        ).init(KEY, task.init(KEY)),
        lambda task: optimal_sampling(
            task, client_optimizer=optax.sgd(0.1), expected=1
        ).init(KEY, task.init(KEY)),
        lambda task: scaffnew(
            task, client_optimizer=optax.sgd(0.1), population=2, probability=0.5
        ).init(KEY, task.init(KEY)),
        lambda task: locodl(
            task,
            client_optimizer=optax.sgd(0.1),
            uplink=random_k(0.5),
            population=2,
            probability=0.5,
            omega=1.0,
        ).init(KEY, task.init(KEY)),
        lambda task: fed_distill(
            task,
            public=jnp.ones((2, 5)),
            num_classes=3,
            client_optimizer=optax.sgd(0.1),
        ).init(KEY, task.init(KEY)),
        lambda task: frozen(task, task.init(KEY), "params"),
        lambda task: low_rank_adapted(task, task.init(KEY), rank=1),
    ],
)
def test_what_would_not_average_them_is_refused(use):
    with pytest.raises(ValueError, match=r"without running statistics .* GroupNorm"):
        use(TASKS["linen"])


class Untold(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.BatchNorm(use_running_average=True)(x))


def test_a_module_that_is_not_told_that_it_trains_is_refused():
    task = classification(Untold(), input_shape=(NUM_FEATURES,))
    with pytest.raises(ValueError, match="use_running_average=not train"):
        task.init(KEY)
