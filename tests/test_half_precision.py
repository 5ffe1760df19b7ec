"""In bfloat16 both ends of a link go on from the same numbers, under every execution.

A compiler may skip the rounding of a result in half precision where it is used at once.
What is added up, what clients and server keep, and what is sent are compared to the
last bit, with the optimizations that users have: on two clients, whose weights are
powers of two, so that the float32 sum of what was sent is exact.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_comp import compress, tree
from fedjax_comp.algorithms import (
    fed_avg,
    fed_buff,
    fed_dyn,
    lazy_gradients,
    marina,
    model_averaging,
    scaffold,
    streaming_diloco,
)
from fedjax_comp.algorithms.dynamic_averaging import periodic
from fedjax_comp.base import Examples, Task, make_context
from fedjax_comp.execution import chunked, scanned, sharded, vmapped
from fedjax_comp.server.broadcast import broadcast
from fedjax_comp.server.unicast import new_listener, tell
from tests.problems import make_cohort, stack_clients

SIZE, CLIENTS, ROUNDS = 512, 2, 2
ALPHA = 0.125  # a power of two, so that its product with a number is exact
EXECUTIONS = {
    "scanned": scanned,
    "vmapped": vmapped,
    "chunked": lambda: chunked(2),
    "sharded": sharded,
}

under_every_execution = pytest.mark.parametrize(
    "execution",
    [
        "scanned",
        pytest.param("vmapped", marks=pytest.mark.thorough),
        pytest.param("chunked", marks=pytest.mark.thorough),
        pytest.param("sharded", marks=pytest.mark.thorough),
    ],
)


def regression():
    """A diagonal quadratic of two leaves, whose gradients are no round numbers."""

    def loss(params, examples, mask, key):
        del key
        x = jnp.where(mask[:, None], examples.x, 0).mean(0)
        halves = zip(jax.tree.leaves(params), jnp.split(x, 2), strict=True)
        terms = [jnp.sum((w.astype(jnp.float32) - a) ** 2) for w, a in halves]
        return 0.37 * sum(terms)

    def init(key):
        drawn = jax.random.normal(key, (2, SIZE // 2)).astype(jnp.bfloat16)
        return {"a": drawn[0], "b": drawn[1]}

    return Task(init, loss, None)


def cohort():
    found = make_cohort([1] * CLIENTS, batch_size=1, epochs=4)
    x = np.random.default_rng(0).normal(size=(CLIENTS, SIZE)).astype(np.float32)
    weights = jnp.array([4, 2], jnp.int32)
    clients = found.clients._replace(num_examples=weights)
    return found._replace(
        examples=Examples(jnp.asarray(x), found.examples.y), clients=clients
    )


def rounds_of(name, execution):
    """Of each round: clients before, both ends after, its `info`, what was added up."""
    added = []

    def watched(client_fn):
        run_cohort = EXECUTIONS[execution]()(client_fn)

        def run(shared, clients):
            total, outputs = run_cohort(shared, clients)
            added.append(total)
            return total, outputs

        return run

    algorithm = MAKE[name](regression(), execution=watched, keep_messages=True)

    @jax.jit
    def step(*arguments):
        added.clear()
        return *algorithm.round(*arguments), tuple(added)

    server, client = algorithm.init(
        jax.random.key(0), regression().init(jax.random.key(1))
    )
    clients, seen = stack_clients(client, CLIENTS), []
    for i in range(ROUNDS):
        before = clients
        server, clients, info, totals = step(
            jax.random.key(i), server, clients, cohort()
        )
        seen.append((before, server, clients, info, totals))
    return seen


SGD = optax.sgd(0.1)
MAKE = {
    "fed_avg": functools.partial(fed_avg, client_optimizer=SGD),
    "fed_buff": functools.partial(fed_buff, client_optimizer=SGD),
    "fed_dyn": functools.partial(
        fed_dyn, client_optimizer=SGD, population=CLIENTS, alpha=ALPHA
    ),
    "marina": functools.partial(
        marina, client_optimizer=SGD, uplink=compress.random_k(0.5), probability=0.5
    ),
    "scaffold": functools.partial(scaffold, client_optimizer=SGD, population=CLIENTS),
    "lazy_gradients": functools.partial(lazy_gradients, optimizer=SGD),
    "model_averaging": functools.partial(
        model_averaging, trigger=periodic(), optimizer=SGD
    ),
    "streaming_diloco": functools.partial(
        streaming_diloco, client_optimizer=SGD, fragments=2
    ),
    "unicast": functools.partial(
        fed_avg, client_optimizer=SGD, unicast=True, population=CLIENTS
    ),
    "error_feedback": functools.partial(
        fed_avg,
        client_optimizer=SGD,
        uplink=compress.error_feedback(compress.identity()),
    ),
    "differenced": functools.partial(
        fed_avg, client_optimizer=SGD, uplink=compress.differenced(compress.identity())
    ),
}


SUMS = [
    name
    if name in ("fed_avg", "unicast", "differenced")
    else pytest.param(name, marks=pytest.mark.thorough)
    for name in MAKE
    if name not in ("lazy_gradients", "model_averaging")
]


def summed(used):
    """The weighted sum of two clients' trees `[2, ...]`, exact in float32."""
    return [
        2.0**-31 * (4 * x[0] + 2 * x[1]) for x in map(np.float32, jax.tree.leaves(used))
    ]


def same(got, want):
    """Of two trees in any dtypes, to the last bit; neither is all zeros."""
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert np.any(np.float32(a))
        np.testing.assert_array_equal(np.float32(a), np.float32(b))


@under_every_execution
@pytest.mark.parametrize("name", SUMS)
def test_what_is_added_up_is_what_was_sent(name, execution):
    for _, _, _, info, totals in rounds_of(name, execution):
        kinds = [kind for kind in info.messages if kind.startswith("uplink")]
        for kind, total in zip(kinds, totals, strict=True):
            summand = total if hasattr(total, "update") else total[0]
            same(summand.update.total, summed(info.messages[kind].used))


@pytest.mark.thorough
@under_every_execution
def test_clients_of_scaffold_and_fed_dyn_add_what_was_sent(execution):
    for before, _, after, info, _ in rounds_of("scaffold", execution):
        used = info.messages["uplink"].used.control
        same(after.control, jax.tree.map(jnp.add, before.control, used))
    for before, _, after, info, _ in rounds_of("fed_dyn", execution):
        used = info.messages["uplink"].used
        followed = jax.tree.map(lambda g, d: g - ALPHA * d, before.gradient, used)
        same(after.gradient, followed)


@under_every_execution
def test_the_lazy_mean_is_of_the_gradients_that_clients_keep(execution):
    for _, _, clients, _, (total,) in rounds_of("lazy_gradients", execution):
        same(total.update.total, summed(clients.heard))


@under_every_execution
def test_learners_go_on_from_the_coordinators_average(execution):
    step = None
    for before, coordinator, states, _, _ in rounds_of("model_averaging", execution):
        for i in range(CLIENTS):
            own = jax.tree.map(lambda x, i=i: x[i], states.learner.params)
            same(own, coordinator.average)
        known = jax.tree.map(lambda x: x[0], before.learner.params)
        step = jax.tree.map(jnp.subtract, coordinator.average, known)
        same(coordinator.step, step)


@pytest.mark.thorough
@under_every_execution
def test_both_ends_of_a_difference_move_their_reference_alike(execution):
    for _, _, links, _, _ in rounds_of("differenced", execution):
        same(links.sender.reference, links.receiver.reference)
    for _, _, links, _, _ in rounds_of("error_feedback", execution):
        # Nothing is lost of a number that the message holds in full.
        for leaf in jax.tree.leaves(links.sender.memory):
            np.testing.assert_array_equal(leaf, np.zeros_like(leaf))


@pytest.mark.parametrize(
    "compressor", [compress.identity(), compress.qsgd(16)], ids=["identity", "qsgd"]
)
def test_a_model_that_is_told_is_used_as_it_is_kept(compressor):
    drawn = jax.random.normal(jax.random.key(0), (2, 4096)).astype(jnp.bfloat16)
    context = make_context(jax.random.key(1), 0)

    @jax.jit
    def told(params, model):
        listener = new_listener(compressor, model)
        found = tell(
            compressor,
            context,
            params,
            listener,
            client_id=jnp.int32(0),
            hears=jnp.array(True),
        )
        link = compressor.init(params)
        said = broadcast(compressor, context, params - model, link).received
        return [
            (tree.widened(x), kept)
            for x, kept in [
                (found.received, found.listener.model),
                (found.message.used, found.message.used),
                (said, said),
            ]
        ]

    for used, kept in told(*drawn):
        assert (used.dtype, kept.dtype) == (jnp.float32, jnp.bfloat16)
        same(used, kept)
