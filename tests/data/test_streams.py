"""Streams: every example once, the same for every protocol, concepts on time."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_comp.base import Examples
from fedjax_comp.data import Dataset
from fedjax_comp.data.streams import (
    StreamSpec,
    drift_times,
    example_data,
    example_stream,
    graphical_model,
    one_learner,
    permuted_labels,
    rotated_images,
    synthetic_data,
)
from fedjax_comp.schedules import scheduled_rates

COUNT = 48
KEY = jax.random.key(0)


def dataset():
    x = np.arange(COUNT * 4, dtype=np.float32).reshape(COUNT, 2, 2, 1)
    examples = Examples(x, np.arange(COUNT, dtype=np.int32) % 3)
    return Dataset("numbers", examples, examples, None, None, 3, 1.0)


def batch(cohort, learner, update):
    rows = cohort.clients.rows[learner, update]
    return jax.tree.map(lambda a: np.asarray(a[rows]), cohort.examples)


def test_learners_take_turns_and_see_each_example_once():
    spec = StreamSpec(num_learners=3, updates=2, batch_size=4)
    data = example_data(dataset(), drifts=drift_times(4, 0, seed=0), seed=5)
    sample = jax.jit(example_stream(spec))
    order = np.asarray(data.order)
    seen = []
    for round_index in range(2):
        cohort = sample(KEY, jnp.int32(round_index), data)
        for update in range(2):
            for learner in range(3):
                first = ((2 * round_index + update) * 3 + learner) * 4
                expected = order[first : first + 4]
                got = batch(cohort, learner, update)
                np.testing.assert_array_equal(got.x, dataset().train.x[expected])
                np.testing.assert_array_equal(got.y, dataset().train.y[expected])
                seen += expected.tolist()
    assert sorted(seen) == list(range(COUNT))


def test_every_pass_has_all_examples_in_an_order_of_its_own():
    spec = StreamSpec(num_learners=3, updates=4, batch_size=4)
    data = example_data(dataset(), drifts=np.zeros(0), seed=5, num_passes=3)
    sample = jax.jit(example_stream(spec))
    passes = [sample(KEY, jnp.int32(i), data).examples.x[:, 0, 0, 0] for i in range(3)]
    orders = [np.asarray(x).tolist() for x in passes]
    assert all(sorted(order) == sorted(orders[0]) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    # The first pass is that of a stream of one.
    once = example_data(dataset(), drifts=np.zeros(0), seed=5)
    np.testing.assert_array_equal(data.order[:COUNT], once.order)
    in_time = example_data(
        dataset(), drifts=np.zeros(0), seed=5, in_order=True, num_passes=2
    )
    np.testing.assert_array_equal(in_time.order, np.tile(np.arange(COUNT), 2))


@pytest.mark.thorough
def test_the_stream_does_not_depend_on_the_runs_key_or_its_rounds():
    data = example_data(dataset(), drifts=np.array([1], np.int32), seed=5)
    drift = permuted_labels(3)
    two = example_stream(StreamSpec(2, 2, 3), drift)(KEY, jnp.int32(0), data)
    one = example_stream(StreamSpec(2, 1, 3), drift)
    for update in range(2):
        cohort = one(jax.random.key(9), jnp.int32(update), data)
        for learner in range(2):
            a, b = batch(two, learner, update), batch(cohort, learner, 0)
            jax.tree.map(np.testing.assert_array_equal, a, b)


def test_labels_are_renamed_from_the_drift_on():
    data = example_data(dataset(), drifts=np.array([1], np.int32), seed=2)
    sample = example_stream(StreamSpec(1, 1, COUNT), permuted_labels(3))
    calm = example_stream(StreamSpec(1, 1, COUNT))
    before, after = (sample(KEY, jnp.int32(i), data) for i in (0, 1))
    plain = [calm(KEY, jnp.int32(i), data).examples.y for i in (0, 1)]
    np.testing.assert_array_equal(before.examples.y, plain[0])
    names = {int(a): int(b) for a, b in zip(plain[1], after.examples.y, strict=True)}
    assert sorted(names) == sorted(names.values()) == [0, 1, 2]
    expected = jax.random.permutation(jax.random.fold_in(data.key, 1), 3)
    assert [names[i] for i in range(3)] == expected.tolist()


def test_images_turn_a_quarter_with_every_concept():
    data = example_data(dataset(), drifts=np.array([1, 2], np.int32), seed=2)
    sample = example_stream(StreamSpec(2, 1, 3), rotated_images())
    calm = example_stream(StreamSpec(2, 1, 3))
    for update in range(3):
        turned = sample(KEY, jnp.int32(update), data).examples.x
        plain = np.asarray(calm(KEY, jnp.int32(update), data).examples.x)
        np.testing.assert_array_equal(turned, np.rot90(plain, update, axes=(1, 2)))


def test_graphical_model_has_the_declared_conditionals():
    # 40,000 draws of the first feature for each label: by Hoeffding its frequency is
    # within 0.02 of it but with probability 2 exp(-2 * 19,000 * 0.02^2) < 1e-6.
    data = synthetic_data(drifts=np.array([1], np.int32), seed=3)
    sample = graphical_model(StreamSpec(1, 1, 40_000), num_features=3)
    concept_key, _ = jax.random.split(data.key)
    for update in (0, 1):
        x, y = jax.tree.map(np.asarray, sample(KEY, jnp.int32(update), data).examples)
        assert set(np.unique(x)) <= {0.0, 1.0}
        key = jax.random.fold_in(concept_key, update)
        tables = np.asarray(jax.random.uniform(key, (3, 2, 2)))
        for label in (0, 1):
            of_label = x[y == label]
            assert len(of_label) > 19_000
            assert abs(of_label[:, 0].mean() - tables[0, label, 0]) < 0.02


@pytest.mark.parametrize("kind", ["examples", "graphical"])
def test_one_learner_gets_everything_update_by_update(kind):
    spec = StreamSpec(num_learners=3, updates=2, batch_size=4)
    drifts = np.array([1], np.int32)
    if kind == "examples":
        data = example_data(dataset(), drifts=drifts, seed=5)
        stream = example_stream(spec, permuted_labels(3))
    else:
        data = synthetic_data(drifts=drifts, seed=5)
        stream = graphical_model(spec, num_features=4)
    cohort, alone = jax.jit(
        lambda data: (
            stream(KEY, jnp.int32(0), data),
            one_learner(stream)(KEY, jnp.int32(0), data),
        )
    )(data)
    assert alone.clients.rows.shape == alone.clients.mask.shape == (1, 6, 4)
    assert alone.clients.num_examples.tolist() == [24]
    assert alone.clients.client_id.tolist() == [0]
    for update in range(2):
        for learner in range(3):
            a = batch(cohort, learner, update)
            b = batch(alone, 0, 3 * update + learner)
            jax.tree.map(np.testing.assert_array_equal, a, b)
    halved = one_learner(scheduled_rates(stream, optax.constant_schedule(0.5)))
    assert halved(KEY, jnp.int32(0), data).clients.rate.tolist() == [0.5]


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="num_drifts=5"):
        drift_times(5, 5, seed=0)
    with pytest.raises(ValueError, match="num_passes=0"):
        example_data(dataset(), drifts=np.zeros(0), seed=0, num_passes=0)
    with pytest.raises(ValueError, match="batch_size=0"):
        example_stream(StreamSpec(1, 1, 0))
    with pytest.raises(ValueError, match="num_features=0"):
        graphical_model(StreamSpec(1, 1, 1), num_features=0)
