"""Dispatch: who gets what, who answers, what it costs, and what it is good for."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_comp.base import Examples
from fedjax_comp.data import make_batches
from fedjax_comp.one_shot.data_dispatch import (
    clustered,
    routed_evaluation,
    shipment,
)
from fedjax_comp.one_shot.dispatch_baselines import hashed, partition_tree, randomly
from fedjax_comp.one_shot.independent import independent_models
from fedjax_comp.wire.accounting import message_bits, num_bits
from fedjax_comp.wire.message import HEADER_BYTES, from_bytes, to_bytes
from tests.problems import NUM_CLASSES, make_examples, softmax_task


def rng():
    return np.random.default_rng(0)


def blobs(each=30):
    """Four far groups in the plane."""
    corners = np.array([[0, 0], [0, 9], [9, 0], [9, 9]], np.float32)
    return np.repeat(corners, each, 0) + rng().normal(size=(4 * each, 2)).astype("f4")


def parts(sent):
    order, offsets = sent.assignment
    return np.split(order, offsets[1:-1])


@pytest.mark.parametrize(
    "dispatcher", [clustered(), randomly(), partition_tree(), hashed()]
)
@pytest.mark.parametrize("machines", [1, 3, 4])
def test_every_example_is_somewhere_and_every_test_example_answered(
    dispatcher, machines
):
    x = blobs()
    sent = dispatcher(x, machines, rng())
    assert len(parts(sent)) == machines
    np.testing.assert_array_equal(np.sort(sent.assignment.order), np.arange(len(x)))
    answered = sent.route(x)
    assert answered.shape == (len(x),)
    assert answered.dtype == np.int32
    assert set(answered.tolist()) <= set(range(machines))


def test_clusters_find_the_groups_and_route_to_them():
    x = blobs()
    sent = clustered()(x, 4, rng())
    assert sorted(len({i // 30 for i in part}) for part in parts(sent)) == [1] * 4
    for machine, part in enumerate(parts(sent)):
        assert (sent.route(x[part]) == machine).all()


@pytest.mark.parametrize("dispatcher", [clustered(3), randomly(3)])
def test_copies_are_on_different_machines(dispatcher):
    sent = dispatcher(blobs(), 4, rng())
    for part in parts(sent):
        assert len(set(part.tolist())) == len(part)
    assert (np.bincount(sent.assignment.order) == 3).all()


def test_a_tree_is_balanced_and_routes_as_it_split():
    x = rng().normal(size=(1000, 5)).astype(np.float32)
    for machines in (2, 5, 8):
        sent = partition_tree()(x, machines, rng())
        sizes = [len(part) for part in parts(sent)]
        assert max(sizes) - min(sizes) <= 2
        for machine, part in enumerate(parts(sent)):
            assert (sent.route(x[part]) == machine).all()


def test_a_hash_keeps_what_is_equal_together():
    x = np.repeat(rng().normal(size=(20, 5)), 3, axis=0).astype(np.float32)
    owner = hashed()(x, 8, rng()).route(x)
    assert (owner.reshape(20, 3) == owner.reshape(20, 3)[:, :1]).all()


def test_mistakes():
    for dispatcher in (clustered(5), randomly(5)):
        with pytest.raises(ValueError, match="replication=5 <= 4 machines"):
            dispatcher(blobs(), 4, rng())
    for make, message in (
        (lambda: clustered(0), "replication=0"),
        (lambda: clustered(sample_size=0), "sample_size=0"),
        (lambda: hashed(0), "bits=0"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_a_shipment_is_its_bytes():
    images = rng().integers(0, 256, (7, 4, 4)).astype(np.uint8)
    message = shipment(Examples(images, np.arange(7) % 3), 3)
    data = to_bytes(message)
    # 16 bytes an image, two bits a label.
    assert len(data) - HEADER_BYTES == 7 * 16 + 2
    assert -(-message_bits(num_bits(message)) // 8) == 7 * 16 + 2
    template = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), message)
    back = from_bytes(data, template)
    np.testing.assert_array_equal(back.x.values, images)


def test_machines_learn_alone_and_answer_for_themselves():
    """Each equals a model trained on its own examples, and scores only what it got."""
    task, examples = softmax_task(), make_examples(30)
    lists = [np.arange(10), np.arange(10, 30), np.zeros(0, int)]
    order = jnp.asarray(np.concatenate(lists), jnp.int32)
    offsets = jnp.array([0, 10, 30, 30], jnp.int32)

    def batches(key, data):
        return make_batches(
            key, *data, jnp.arange(3), max_client_size=20, epochs=3, batch_size=0
        )

    params = task.init(jax.random.key(1))
    train = jax.jit(independent_models(task, optax.sgd(0.5), batches))
    models = train(jax.random.key(0), params, examples, (order, offsets))
    gradient_of = jax.jit(jax.grad(task.loss))
    for machine, rows in enumerate(lists):
        own = params
        mine = Examples(examples.x[rows], examples.y[rows])
        for _ in range(3 if len(rows) else 0):
            gradient = gradient_of(
                own, mine, jnp.ones(len(rows), bool), jax.random.key(0)
            )
            own = jax.tree.map(lambda w, g: w - 0.5 * g, own, gradient)
        jax.tree.map(
            lambda a, b, machine=machine: np.testing.assert_allclose(
                a[machine], b, rtol=1e-4, atol=1e-5
            ),
            models,
            own,
        )
    machine = jnp.asarray(rng().integers(0, 3, 30))
    sums = jax.jit(routed_evaluation(task))(models, examples, machine)
    owner, kernel, bias = (
        np.asarray(a) for a in (machine, models["kernel"], models["bias"])
    )
    logits = np.einsum("nd,ndc->nc", examples.x, kernel[owner]) + bias[owner]
    assert logits.shape == (30, NUM_CLASSES)
    hits = int((logits.argmax(1) == np.asarray(examples.y)).sum())
    assert int(sums["count"]) == 30
    assert int(sums["accuracy"]) == hits
    assert np.isfinite(sums["loss"])
