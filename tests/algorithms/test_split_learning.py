"""Split learning: without compression it is known training, in turns and at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_comp import execution as executions
from fedjax_comp import models
from fedjax_comp import tree as trees
from fedjax_comp.algorithms.fed_avg import fed_avg
from fedjax_comp.algorithms.links.split_exchange import (
    Labelled,
    divide,
    join,
    with_labels,
)
from fedjax_comp.algorithms.split_learning import split_learning, split_links
from fedjax_comp.base import LinkState, make_context
from fedjax_comp.compress import (
    chain,
    error_feedback,
    identity,
    stochastic_quantize,
    top_k,
)
from fedjax_comp.compress.audit import make_auditor
from fedjax_comp.models.split import split_classification
from fedjax_comp.wire.traffic import to_client, to_server, totals
from tests.problems import NUM_CLASSES, NUM_FEATURES, make_cohort, stack_clients

SIZES = [6, 3, 8]
BATCH = 3
VANILLA, U_SHAPED = ("Dense_1",), ("Dense_1", "Dense_2")


@functools.cache
def split_task(cuts):
    return split_classification(
        models.mlp(6, 5)(NUM_CLASSES),
        cuts,
        num_classes=NUM_CLASSES,
        input_shape=(NUM_FEATURES,),
    )


def start():
    return split_task(VANILLA).task.init(jax.random.key(0))


def run(cuts, cohort=None, rounds=1, **options):
    options = {"client_optimizer": optax.sgd(0.3), **options}
    algorithm = split_learning(split_task(cuts), **options)
    server, _ = algorithm.init(jax.random.key(1), start())
    step = jax.jit(algorithm.round)
    cohort = cohort or make_cohort(SIZES, BATCH)
    for i in range(rounds):
        server, _, info = step(jax.random.key(i), server, (), cohort)
    return algorithm.params(server), info


def close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), a, b)


@pytest.mark.parametrize("cuts", [VANILLA, U_SHAPED])
def test_turns_are_centralised_training_in_the_same_order(cuts):
    optimizer = optax.sgd(0.3, momentum=0.5)
    ours, info = run(cuts, rounds=2, client_optimizer=optimizer)
    task, cohort, params = split_task(cuts).task, make_cohort(SIZES, BATCH), start()
    state, grad = optimizer.init(params), jax.jit(jax.grad(task.loss))
    for _ in range(2):
        for rows, mask in zip(
            cohort.clients.rows.reshape(-1, BATCH),
            cohort.clients.mask.reshape(-1, BATCH),
            strict=True,
        ):
            if mask.any():
                batch = jax.tree.map(lambda x, rows=rows: x[rows], cohort.examples)
                gradients = grad(params, batch, mask, jax.random.key(0))
                updates, state = optimizer.update(gradients, state)
                params = optax.apply_updates(params, updates)
    close(ours, params)
    assert int(info.client_steps) == 2 + 1 + 3
    assert int(info.dropped) == 0


def test_u_shaped_is_vanilla():
    close(run(VANILLA)[0], run(U_SHAPED)[0])


def test_in_parallel_it_is_federated_averaging():
    ours, info = run(VANILLA, schedule="parallel")
    averaging = fed_avg(split_task(VANILLA).task, client_optimizer=optax.sgd(0.3))
    server, client = averaging.init(jax.random.key(1), start())
    server, _, theirs = jax.jit(averaging.round)(
        jax.random.key(0), server, stack_clients(client, 3), make_cohort(SIZES, BATCH)
    )
    close(ours, averaging.params(server))
    np.testing.assert_allclose(info.train_loss, theirs.train_loss, rtol=1e-5)


def test_executions_agree_in_parallel():
    expected, _ = run(VANILLA, schedule="parallel")
    sharded, _ = run(VANILLA, schedule="parallel", execution=executions.sharded())
    close(sharded, expected)


def test_bytes_are_those_of_activations_labels_gradients_and_weights():
    # Six batches of three examples of six activations; seventeen labels of two bits,
    # a count of two bits with each batch; the weights of the first layer three times.
    _, info = run(VANILLA)
    weights = 4 * (NUM_FEATURES * 6 + 6)
    activations = 6 * 3 * 6 * 4
    labels = sum(-(-(2 * n + 2) // 8) for n in (3, 3, 3, 3, 3, 2))
    assert totals(info.traffic).uplink_bytes == activations + labels + 3 * weights
    assert totals(info.traffic).downlink_bytes == activations + 3 * weights
    assert (
        totals(info.traffic).uplink_messages
        == totals(info.traffic).downlink_messages
        == 6 + 3
    )
    # With momentum, its state is handed over, too.
    _, heavy = run(VANILLA, client_optimizer=optax.sgd(0.3, momentum=0.5))
    more = totals(heavy.traffic).downlink_bytes - totals(info.traffic).downlink_bytes
    assert more == 3 * weights


def test_labels_do_not_leave_a_u_shaped_client():
    _, info = run(U_SHAPED)
    weights = 4 * (NUM_FEATURES * 6 + 6 + 5 * NUM_CLASSES + NUM_CLASSES)
    assert totals(info.traffic).uplink_bytes == 6 * 3 * (6 + 5) * 4 + 3 * weights
    cohort = make_cohort(SIZES, BATCH)
    other = cohort._replace(
        examples=cohort.examples._replace(y=(cohort.examples.y + 1) % NUM_CLASSES)
    )
    first = make_cohort(SIZES, BATCH)._replace(
        clients=jax.tree.map(
            lambda x: x[:1, :1] if x.ndim > 1 else x[:1], cohort.clients
        )
    )
    kept = {"keep_messages": True}
    _, one = run(U_SHAPED, first, **kept)
    _, two = run(U_SHAPED, first._replace(examples=other.examples), **kept)
    for name in ("activations", "outputs"):  # sent before the loss is known
        same = (one.messages[name].payload, two.messages[name].payload)
        jax.tree.map(np.testing.assert_array_equal, *same)


@pytest.mark.thorough
@pytest.mark.parametrize("cuts", [VANILLA, U_SHAPED])
def test_every_message_decodes_from_its_bytes(cuts):
    up, down = chain(top_k(0.5), stochastic_quantize(levels=16)), top_k(0.5)
    _, info = run(cuts, uplink=up, downlink=down, keep_messages=True)
    links = split_links(split_task(cuts), up, down)
    assert links.keys() == info.messages.keys()
    for name, messages in info.messages.items():
        audit = make_auditor(links[name])(messages)
        # A hand-over each way for each of three clients, six batches in all.
        count = 3 if name.startswith("weights") else 6
        assert (audit.audited, audit.failures) == (count, ())


@pytest.mark.parametrize("schedule", ["round_robin", "parallel"])
@pytest.mark.parametrize("cuts", [VANILLA, U_SHAPED])
def test_every_message_says_who_sent_it_and_which_way(cuts, schedule):
    cohort = make_cohort(SIZES, BATCH)
    ids = jnp.array([7, 4, 9], jnp.int32)
    named = cohort._replace(clients=cohort.clients._replace(client_id=ids))
    _, info = run(cuts, named, schedule=schedule, keep_messages=True)
    assert info.traffic.keys() == info.messages.keys()
    steps = cohort.clients.mask.any(axis=2)
    of_batches = np.repeat(ids, np.asarray(steps.sum(axis=1)))
    for kind, way in {
        "activations": to_server,
        "output_gradients": to_server,
        "weights_up": to_server,
        "gradients": to_client,
        "outputs": to_client,
        "weights_down": to_client,
    }.items():
        if kind not in info.messages:
            assert cuts == VANILLA
            continue
        clients = ids if kind.startswith("weights") else of_batches
        messages = info.messages[kind]
        found = [x[messages.spoke] for x in messages.ends]
        jax.tree.map(np.testing.assert_array_equal, found, list(way(clients)))
        jax.tree.map(
            np.testing.assert_array_equal, info.traffic[kind].ends, messages.ends
        )


def test_a_turn_begins_with_what_the_last_one_handed_over():
    _, info = run(VANILLA, keep_messages=True)
    down, up = (info.messages[f"weights_{way}"].payload for way in ("down", "up"))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[1:], b[:-1]), down, up)


@pytest.mark.thorough
def test_gradients_go_straight_through_the_compressor():
    # One batch, activations doubled on the way: the top learns from the doubled ones,
    # the bottom from the top's gradient as if it were that of its own activations.
    doubled = identity()._replace(
        init=lambda like: LinkState((), ()),
        encode=lambda context, tree, sender: (2 * tree, sender),
        decode=lambda context, payload, receiver: (payload, receiver),
    )
    cohort = make_cohort([BATCH], BATCH)
    ours, _ = run(VANILLA, cohort, uplink=doubled)
    task, params = split_task(VANILLA), start()
    bottom, top = task.parts
    places = divide(task, params)
    x, y, mask = cohort.examples.x, cohort.examples.y, jnp.ones(BATCH, bool)
    hidden, pull = jax.vjp(lambda p: bottom.apply(p, x), places.client[0])
    of_top, of_hidden = jax.grad(
        lambda p, h: task.loss(top.apply(p, h), y, mask), argnums=(0, 1)
    )(places.server, 2 * hidden)
    gradients = {**pull(of_hidden)[0], **of_top}
    close(ours, jax.tree.map(lambda w, g: w - 0.3 * g, params, gradients))


@pytest.mark.parametrize("schedule", ["round_robin", "parallel"])
def test_silent_and_broken_clients(schedule):
    cohort = make_cohort(SIZES, BATCH)
    idle = cohort._replace(
        clients=cohort.clients._replace(active=jnp.array([True, False, True]))
    )
    params, info = run(VANILLA, idle, schedule=schedule)
    assert totals(info.traffic).uplink_messages == 2 + 3 + 2
    x = cohort.examples.x.at[SIZES[0]].set(jnp.inf)
    spoilt = cohort.examples._replace(x=x)
    # What a silent client holds does not matter; what a broken one learns is left out.
    same, _ = run(VANILLA, idle._replace(examples=spoilt), schedule=schedule)
    jax.tree.map(np.testing.assert_array_equal, same, params)
    learnt, info = run(VANILLA, cohort._replace(examples=spoilt), schedule=schedule)
    assert int(info.dropped) == 1
    assert bool(trees.all_finite((learnt, info.train_loss)))
    assert (
        totals(info.traffic).uplink_messages == 2 + 3 + 3
    )  # its weights, but no activations


@pytest.mark.parametrize(
    ("cuts", "broken", "expected"),
    [
        (VANILLA, "Dense_1", {"activations": 6, "gradients": 0}),
        (
            U_SHAPED,
            "Dense_1",
            {"activations": 6, "outputs": 0, "output_gradients": 0, "gradients": 0},
        ),
        (
            U_SHAPED,
            "Dense_2",
            {"activations": 6, "outputs": 6, "output_gradients": 0, "gradients": 0},
        ),
    ],
)
def test_what_was_sent_before_something_broke_is_counted(cuts, broken, expected):
    algorithm = split_learning(split_task(cuts), client_optimizer=optax.sgd(0.3))
    params = start()
    params[broken] = jax.tree.map(lambda w: w + jnp.inf, params[broken])
    server, _ = algorithm.init(jax.random.key(1), params)
    after, _, info = jax.jit(algorithm.round)(
        jax.random.key(0), server, (), make_cohort(SIZES, BATCH)
    )
    spoke = {kind: int(one.spoke.sum()) for kind, one in info.traffic.items()}
    assert spoke == {**expected, "weights_down": 3, "weights_up": 3}
    assert int(info.dropped) == 3
    jax.tree.map(np.testing.assert_array_equal, after, server)


@pytest.mark.parametrize("schedule", ["round_robin", "parallel"])
def test_a_step_to_what_is_not_finite_is_not_taken(schedule):
    cohort = make_cohort(SIZES, BATCH)
    examples = cohort.examples._replace(x=1e3 * cohort.examples.x)
    params, info = run(
        VANILLA,
        cohort._replace(examples=examples),
        schedule=schedule,
        client_optimizer=optax.sgd(1e38),
    )
    assert int(info.dropped) == 3
    jax.tree.map(np.testing.assert_array_equal, params, start())


def test_who_learnt_nothing_has_no_weight_in_parallel():
    cohort = make_cohort(SIZES, BATCH)
    active = jnp.array([True, False, True])
    away = cohort._replace(clients=cohort.clients._replace(active=active))
    expected, _ = run(VANILLA, away, schedule="parallel")
    x = cohort.examples.x.at[SIZES[0] : sum(SIZES[:2])].set(jnp.nan)
    broken = cohort._replace(examples=cohort.examples._replace(x=x))
    params, info = run(VANILLA, broken, schedule="parallel")
    assert int(info.dropped) == 1
    jax.tree.map(np.testing.assert_array_equal, params, expected)


@pytest.mark.parametrize("schedule", ["round_robin", "parallel"])
def test_a_rate_is_that_of_every_part(schedule):
    cohort = make_cohort(SIZES, BATCH)
    rated = cohort.clients._replace(rate=jnp.full(3, 0.5))
    ours, _ = run(VANILLA, cohort._replace(clients=rated), schedule=schedule)
    half, _ = run(VANILLA, schedule=schedule, client_optimizer=optax.sgd(0.15))
    close(ours, half)


def test_labels_behind_the_count_do_not_travel():
    link = with_labels(identity(), num_classes=NUM_CLASSES)
    sent = Labelled(jnp.ones((3, 2)), jnp.array([2, 1, 2]), jnp.uint32(2))
    context = make_context(jax.random.key(0), 0)
    payload, _ = link.encode(context, sent, ())
    got, _ = link.decode(context, payload, ())
    assert got.labels.tolist() == [2, 1, 0]
    assert int(got.num_examples) == 2


def test_parts_of_the_parameters_are_disjoint_and_complete():
    params = start()
    places = divide(split_task(U_SHAPED), params)
    assert [sorted(part) for part in places.client] == [["Dense_0"], ["Dense_2"]]
    jax.tree.map(np.testing.assert_array_equal, join(places), params)


def test_mistakes_are_told():
    task = split_task(VANILLA)
    with pytest.raises(ValueError, match="schedule='sideways'"):
        split_learning(task, client_optimizer=optax.sgd(0.1), schedule="sideways")
    with pytest.raises(ValueError, match="without memory"):
        run(VANILLA, uplink=error_feedback(top_k(0.5)))
    with pytest.raises(ValueError, match="got 1"):
        divide(task._replace(parts=task.parts[:1]), start())
