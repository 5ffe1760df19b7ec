"""Sums that hold, updates that are finite and yet too large, rounds of nobody."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_comp.algorithms.approximate_synchronous import approximate_synchronous
from fedjax_comp.algorithms.consensus import consensus_sgd
from fedjax_comp.algorithms.data_quantization import data_quantization
from fedjax_comp.algorithms.diloco import diloco
from fedjax_comp.algorithms.dynamic_averaging import dynamic, periodic
from fedjax_comp.algorithms.fed_avg import fed_avg
from fedjax_comp.algorithms.fed_buff import fed_buff
from fedjax_comp.algorithms.fed_dlr import fed_dlr
from fedjax_comp.algorithms.fed_exp import fed_exp
from fedjax_comp.algorithms.fed_nova import fed_nova
from fedjax_comp.algorithms.graphs import ring
from fedjax_comp.algorithms.links.significance import relative
from fedjax_comp.algorithms.marina import marina
from fedjax_comp.algorithms.model_averaging import Moved, mean_of, model_averaging
from fedjax_comp.algorithms.scaffold import scaffold
from fedjax_comp.algorithms.streaming_diloco import streaming_diloco
from fedjax_comp.base import Cohort, Compressor, Examples, LinkState, Task
from fedjax_comp.compress import error_feedback, identity
from fedjax_comp.execution import scanned, vmapped
from fedjax_comp.keys import make_key
from fedjax_comp.metrics import Ledger
from fedjax_comp.training import Dispatch
from tests.problems import make_cohort, softmax_task, stack_clients

SIZE = 4


def pull_task(dtype=jnp.float32):
    """With `sgd(1.0)` a client moves by exactly the mean of its examples."""

    def loss(w, examples, mask, key):
        rows = jnp.where(mask[:, None], examples.x, 0).astype(dtype)
        return -jnp.sum(w * rows.sum(0))

    return Task(lambda key: jnp.zeros(SIZE, dtype), loss, None)


def pulled(moves, weights):
    """One example a client, which says where it moves; and any weights."""
    count = len(moves)
    cohort = make_cohort([1] * count, batch_size=1)
    x = jnp.asarray(np.repeat(np.asarray(moves, np.float32)[:, None], SIZE, axis=1))
    clients = cohort.clients._replace(num_examples=jnp.asarray(weights, jnp.int32))
    return Cohort(Examples(x, cohort.examples.y), clients)


def run(
    algorithm,
    cohort,
    dtype=jnp.float32,
    rounds=1,
    clients=None,
    server=None,
    first=0,
):
    init = algorithm.init(make_key(0), jnp.zeros(SIZE, dtype))
    server = init[0] if server is None else server
    count = cohort.clients.client_id.shape[0]
    clients = stack_clients(init[1], count) if clients is None else clients
    step = jax.jit(algorithm.round)
    for i in range(first, first + rounds):
        server, clients, info = step(make_key(i), server, clients, cohort)
    return server, clients, info


SGD = {"client_optimizer": optax.sgd(1.0)}
EVERY = {
    "fed_avg": lambda task, up: fed_avg(task, **SGD, uplink=up),
    "fed_buff": lambda task, up: fed_buff(task, **SGD, uplink=up, max_staleness=1),
    "fed_exp": lambda task, up: fed_exp(task, **SGD, uplink=up),
    "fed_nova": lambda task, up: fed_nova(task, **SGD, uplink=up),
    # A vector has no low rank to be truncated to.
    "fed_dlr": lambda task, up: fed_dlr(task, **SGD, uplink=up, downlink=identity()),
    "marina": lambda task, up: marina(task, **SGD, uplink=identity(), probability=1.0),
}


HALVES = (
    (jnp.float16, 12, 6_000, 1.0),  # the weights alone pass float16's 65,504
    (jnp.float16, 100, 600, 2.0),
    (jnp.bfloat16, 1_000, 1, 1.0),  # bfloat16 counts to 256
)


@pytest.mark.parametrize(
    ("execution", "dtype", "clients", "weight", "move"),
    [
        *(pytest.param(vmapped(), *one) for one in HALVES),
        pytest.param(scanned(), *HALVES[0]),
        *(
            pytest.param(scanned(), *one, marks=pytest.mark.thorough)
            for one in HALVES[1:]
        ),
    ],
)
def test_half_precision_is_averaged_in_float32(dtype, clients, weight, move, execution):
    algorithm = fed_avg(pull_task(dtype), **SGD, execution=execution)
    cohort = pulled([move] * clients, [weight] * clients)
    server, _, info = run(algorithm, cohort, dtype)
    params = algorithm.params(server)
    assert params.dtype == dtype
    np.testing.assert_array_equal(params, jnp.full(SIZE, move, dtype))
    assert int(info.dropped) == 0


@pytest.mark.parametrize("name", [n for n in EVERY if n != "fed_avg"])
@pytest.mark.parametrize(
    ("dtype", "clients", "weight"),
    [(jnp.float16, 12, 6_000), (jnp.bfloat16, 1_000, 1)],
)
def test_so_it_is_by_every_algorithm(name, dtype, clients, weight):
    algorithm = EVERY[name](pull_task(dtype), identity())
    server, _, info = run(algorithm, pulled([1.0] * clients, [weight] * clients), dtype)
    np.testing.assert_array_equal(algorithm.params(server), jnp.ones(SIZE, dtype))
    assert int(info.dropped) == 0


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_learners_and_nodes_are_averaged_in_float32(dtype):
    # 1,000 learners at 1.0, and every one beyond the last that bfloat16 would count.
    moved = Moved(
        jnp.ones((1000, 1), dtype),
        jnp.ones(1000, bool),
        jnp.ones(1000),
        jnp.int32(0),
        jnp.zeros(1, dtype),
    )
    mean = mean_of(moved, moved.able)
    assert mean.dtype == dtype
    np.testing.assert_array_equal(mean, jnp.ones(1, dtype))
    # ||(300,)||^2 is beyond float16.
    far = moved._replace(difference=jnp.full((1000, 1), 300.0, dtype))
    for delta, violated in ((80_000.0, True), (100_000.0, False)):
        members = dynamic(delta)(make_key(0), far)
        assert bool(members.violators.all()) == violated
        assert bool(members.violators.any()) == violated


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_every_algorithm_keeps_the_models_dtype(name, dtype):
    algorithm = EVERY[name](pull_task(dtype), identity())
    server, _, _ = run(algorithm, pulled([1.0, 3.0], [30_000, 30_000]), dtype)
    params = algorithm.params(server)
    assert params.dtype == dtype
    np.testing.assert_array_equal(params, jnp.full(SIZE, 2.0, dtype))


@pytest.mark.parametrize("name", EVERY)
def test_no_finite_update_is_too_large_for_its_weight(name):
    algorithm = EVERY[name](pull_task(), identity())
    server, _, info = run(algorithm, pulled([1e38, 1.0, 1.0], [600, 600, 600]))
    params = algorithm.params(server)
    np.testing.assert_allclose(params, np.full(SIZE, 1e38 / 3), rtol=1e-6)
    assert int(info.dropped) == 0


@pytest.mark.parametrize("name", EVERY)
def test_nor_are_several_for_their_number(name):
    algorithm = EVERY[name](pull_task(), identity())
    server, _, info = run(algorithm, pulled([3e38] * 5, [2**20] * 5))
    params = algorithm.params(server)
    np.testing.assert_allclose(params, np.full(SIZE, 3e38), rtol=1e-6)
    assert int(info.dropped) == 0


def times(factor):
    """A link that says more, or less, than it was told."""

    def decode(context, payload, receiver):
        return jax.tree.map(lambda x: factor * x, payload), receiver

    return Compressor(lambda like: LinkState((), ()), lambda c, t, s: (t, s), decode)


TWICE = {
    "fed_avg": lambda task: fed_avg(task, **SGD, uplink=times(2)),
    "fed_buff": lambda task: fed_buff(task, **SGD, uplink=times(2), max_staleness=1),
    "fed_exp": lambda task: fed_exp(task, **SGD, uplink=times(2)),
    "fed_nova": lambda task: fed_nova(task, **SGD, uplink=times(2)),
    "fed_dlr": lambda task: fed_dlr(task, **SGD, uplink=identity(), downlink=times(2)),
    "marina": lambda task: marina(
        task,
        **SGD,
        server_optimizer=optax.sgd(2.0),
        uplink=identity(),
        probability=1.0,
    ),
}
"""Servers that step twice as far as their clients moved."""


@pytest.mark.parametrize("name", EVERY)
def test_a_step_to_what_is_not_finite_is_refused(name):
    algorithm = TWICE[name](pull_task())
    far = pulled([1e38] * 3, [1] * 3)
    before, clients, info = run(algorithm, far)
    params = algorithm.params(before)
    np.testing.assert_allclose(params, np.full(SIZE, 2e38), rtol=1e-6)
    assert int(info.dropped) == 0
    # Each client's model is finite, and so is the mean update.
    server, clients, info = run(algorithm, far, server=before, clients=clients)
    np.testing.assert_array_equal(algorithm.params(server), params)
    assert int(info.dropped) == 3
    # And it goes on.
    back = pulled([-1.5e38] * 3, [1] * 3)
    after, _, info = run(algorithm, back, server=server, clients=clients)
    assert bool(jnp.all(algorithm.params(after) < params))
    assert int(info.dropped) == 0


def gaia(task):
    """Two centres that keep to themselves in rounds 1 and 2, and then tell all."""
    return approximate_synchronous(
        task,
        num_centres=2,
        optimizer=optax.sgd(1.0),
        select=relative(lambda done: jnp.where(done == 3, 0.0, 1e30)),
    )


WITHOUT_SERVER = {
    # Nodes at 3e38 step 6e37 further.
    "consensus": (
        lambda task: consensus_sgd(task, ring(3), rounds=1, optimizer=optax.sgd(3e38)),
        0.2,
        5,
        3,
    ),
    # Learners at 2e38 move to 3e38, and are heard to be at 4e38.
    "averaging": (
        lambda task: model_averaging(
            task, periodic(), optimizer=optax.sgd(1.0), uplink=times(2)
        ),
        1e38,
        1,
        3,
    ),
    # Centres at 3e38 tell each other that two thirds of it are their own.
    "gaia": (gaia, 1e38, 3, 2),
}
"""How to make it, where examples pull, good rounds, and clients."""


@pytest.mark.parametrize("name", WITHOUT_SERVER)
def test_without_a_server_too(name):
    make, pull, rounds, clients = WITHOUT_SERVER[name]
    algorithm, far = make(pull_task()), pulled([pull] * clients, [1] * clients)
    before, states, info = run(algorithm, far, rounds=rounds)
    params = algorithm.params(before)
    assert bool(jnp.isfinite(params).all())
    assert int(info.dropped) == 0
    server, states, info = run(
        algorithm, far, server=before, clients=states, first=rounds
    )
    np.testing.assert_array_equal(algorithm.params(server), params)
    assert int(info.dropped) == clients
    # And it goes on.
    back = pulled([-pull] * clients, [1] * clients)
    after, _, info = run(algorithm, back, server=server, clients=states)
    assert bool(jnp.all(algorithm.params(after) < params))
    assert int(info.dropped) == 0


def test_a_control_variate_that_would_not_be_finite_is_refused():
    algorithm = scaffold(
        pull_task(),
        client_optimizer=optax.sgd(1e-38),
        uplink=times(1.1),
        population=1,
    )
    near = pulled([-1.3e38], [1])  # a gradient of 1.3e38
    server, client = algorithm.init(make_key(0), jnp.zeros(SIZE))
    # The control variate says 2e38 already; the link makes 1.43e38 of what is new.
    server = server._replace(control=jnp.full(SIZE, 2e38))
    clients = stack_clients(client, 1)
    after, states, info = run(algorithm, near, server=server, clients=clients)
    assert int(info.dropped) == 1
    jax.tree.map(np.testing.assert_array_equal, after, server)
    np.testing.assert_array_equal(states.control, clients.control)


LASTING = {
    "diloco": lambda task, own: diloco(task, client_optimizer=own),
    "streaming_diloco": lambda task, own: streaming_diloco(
        task, client_optimizer=own, fragments=1
    ),
    "averaging": lambda task, own: model_averaging(task, periodic(), optimizer=own),
    "gaia": lambda task, own: approximate_synchronous(
        task, num_centres=2, optimizer=own, select=relative(lambda done: 0.0)
    ),
}
"""Algorithms whose clients keep their optimizer's state."""


@pytest.mark.parametrize("name", LASTING)
def test_an_optimizer_that_is_not_finite_is_not_kept(name):
    """Adam squares 1e20, divides by the root of infinity, and learns no more."""
    with jax.numpy_dtype_promotion("standard"):
        algorithm = LASTING[name](pull_task(), optax.adam(0.1))
        server, states, info = run(algorithm, pulled([1e20, 1.0], [1, 1]))
        assert int(info.dropped) == 1
        assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(states))
        # The other goes on, and so does the first in the next round.
        assert bool((algorithm.params(server) > 0).all())
        _, after, info = run(
            algorithm, pulled([1.0, 1.0], [1, 1]), server=server, clients=states
        )
    assert int(info.dropped) == 0
    pairs = zip(*map(jax.tree.leaves, (after, states)), strict=True)
    assert any(bool((new[0] != old[0]).any()) for new, old in pairs)


def test_a_message_that_did_not_count_is_forgotten_at_both_ends():
    uplink = error_feedback(times(2))
    algorithm = fed_avg(pull_task(), **SGD, uplink=uplink)
    _, before, _ = run(algorithm, pulled([1.0, 1.0], [600, 600]))
    broken = pulled([3e38, 1.0], [600, 600])
    _, clients, info = run(algorithm, broken, clients=before)
    assert int(info.dropped) == 1
    for new, old in zip(*map(jax.tree.leaves, (clients, before)), strict=True):
        np.testing.assert_array_equal(new[0], old[0])
    # One overflow does not silence it: the next round it counts again.
    _, _, info = run(algorithm, pulled([1.0, 1.0], [600, 600]), clients=clients)
    assert int(info.dropped) == 0


def test_quantized_data_are_forgotten_alike():
    algorithm = data_quantization(
        softmax_task(),
        quantizer=times(0.5),
        num_classes=3,
        optimizer=optax.sgd(1.0),
        refinement=error_feedback(times(100)),
    )
    cohort = make_cohort([3, 3], batch_size=3)
    x = cohort.examples.x.at[:3].multiply(1e38)
    server, template = algorithm.init(make_key(0), softmax_task().init(make_key(1)))
    clients = stack_clients(template, 2)
    _, after, info = jax.jit(algorithm.round)(
        make_key(2),
        server,
        clients,
        cohort._replace(examples=Examples(x, cohort.examples.y)),
    )
    assert info.traffic["uplink"].spoke.all()
    assert int(info.dropped) == 1
    for new, old in zip(*map(jax.tree.leaves, (after, clients)), strict=True):
        np.testing.assert_array_equal(new[0], old[0])


def test_nobody_trained_is_no_loss_at_all():
    algorithm = fed_avg(pull_task(), **SGD)
    cohort = pulled([1.0, 1.0], [1, 1])
    idle = cohort.clients._replace(active=jnp.zeros(2, bool))
    _, _, alone = run(algorithm, cohort._replace(clients=idle))
    assert np.isnan(alone.train_loss)
    _, _, trained = run(algorithm, cohort)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), alone, trained, alone)
    ledger = Ledger()
    ledger.record(Dispatch(stacked, {}, jnp.int32(3)))
    row = ledger.add_row(test_accuracy=0.5, test_loss=1.0)
    assert row["train_loss"] == float(trained.train_loss)
    ledger.record(Dispatch(stacked, {}, jnp.int32(1)))
    assert ledger.add_row(test_accuracy=0.5, test_loss=1.0)["train_loss"] is None
