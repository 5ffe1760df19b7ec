"""Vertical split learning: without compression it is training in one place."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_comp import models
from fedjax_comp.algorithms.vertical_split import vertical_split
from fedjax_comp.compress import error_feedback, identity, stochastic_quantize, top_k
from fedjax_comp.compress.audit import make_auditor
from fedjax_comp.models.vertical import even_blocks, vertical_classification
from fedjax_comp.wire.traffic import to_client, to_server, totals
from tests.problems import NUM_CLASSES, NUM_FEATURES, make_cohort

BLOCKS = even_blocks([1] * NUM_FEATURES, 2)
OUTPUTS, BATCH = 3, 3


def vertical_task(**changes):
    settings = {
        "blocks": BLOCKS,
        "num_outputs": OUTPUTS,
        "num_classes": NUM_CLASSES,
        "num_features": NUM_FEATURES,
        **changes,
    }
    return vertical_classification(models.linear(), models.mlp(4), **settings)


def run(cohort, **options):
    task = vertical_task()
    params = task.task.init(jax.random.key(0))
    algorithm = vertical_split(task, optimizer=optax.sgd(0.3), **options)
    learner, _ = algorithm.init(jax.random.key(1), params)
    learner, _, info = jax.jit(algorithm.round)(jax.random.key(2), learner, (), cohort)
    return params, algorithm.params(learner), info


def test_it_is_training_of_the_whole_model():
    cohort, task = make_cohort([8], BATCH), vertical_task()
    params, ours, info = run(cohort)
    grad = jax.jit(jax.grad(task.task.loss))
    for rows, mask in zip(cohort.clients.rows[0], cohort.clients.mask[0], strict=True):
        batch = jax.tree.map(lambda x, rows=rows: x[rows], cohort.examples)
        gradients = grad(params, batch, mask, jax.random.key(0))
        params = jax.tree.map(lambda w, g: w - 0.3 * g, params, gradients)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), ours, params)
    # Three batches of two holders.
    assert totals(info.traffic).uplink_messages == 6
    assert totals(info.traffic).uplink_bytes == 6 * BATCH * OUTPUTS * 4
    assert totals(info.traffic).downlink_bytes == totals(info.traffic).uplink_bytes


def test_a_holder_sends_nothing_of_the_features_it_has_not():
    cohort = make_cohort([BATCH], BATCH)
    *_, one = run(cohort, keep_messages=True)
    other = cohort.examples.x.at[:, BLOCKS[1]].add(1.0)
    changed = cohort._replace(examples=cohort.examples._replace(x=other))
    *_, two = run(changed, keep_messages=True)
    first = [info.messages["activations_0"].payload for info in (one, two)]
    second = [info.messages["activations_1"].payload for info in (one, two)]
    np.testing.assert_array_equal(*first)
    assert np.abs(np.subtract(*second)).max() > 0


def test_compressed_messages_decode_from_their_bytes():
    up, down = stochastic_quantize(levels=16), top_k(0.5)
    *_, info = run(
        make_cohort([8], BATCH), uplink=up, downlink=down, keep_messages=True
    )
    for name, messages in info.messages.items():
        link = up if name.startswith("activations") else down
        audit = make_auditor(link)(messages)
        assert (audit.audited, audit.failures) == (3, ()), name
        way, holder = name.split("_")
        ends = to_server if way == "activations" else to_client
        expected = list(ends(np.full(3, int(holder))))
        jax.tree.map(np.testing.assert_array_equal, list(messages.ends), expected)


def step_of(cohort, params, task=None, optimizer=None):
    """One round from these parameters."""
    task = task or vertical_task()
    algorithm = vertical_split(task, optimizer=optimizer or optax.sgd(0.3))
    learner, _ = algorithm.init(jax.random.key(1), params)
    learner, _, info = jax.jit(algorithm.round)(jax.random.key(2), learner, (), cohort)
    return algorithm.params(learner), info


def start(task=None):
    return (task or vertical_task()).task.init(jax.random.key(0))


def test_integers_are_scaled_as_the_numbers_they_are():
    task = vertical_task(scale=1 / 16)
    cohort = make_cohort([8], BATCH)
    stored = np.random.default_rng(0).integers(0, 17, cohort.examples.x.shape)
    found = []
    for dtype in (np.float32, np.uint8):
        examples = cohort.examples._replace(x=jnp.asarray(stored, dtype))
        found.append(step_of(cohort._replace(examples=examples), start(task), task))
    jax.tree.map(np.testing.assert_array_equal, found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1].train_loss, found[1][1].train_loss)


def test_a_rate_is_that_of_every_part():
    cohort = make_cohort([8], BATCH)
    rated = cohort.clients._replace(rate=jnp.array([0.5]))
    ours, _ = step_of(cohort._replace(clients=rated), start())
    half, _ = step_of(cohort, start(), optimizer=optax.sgd(0.15))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, half)


def sent(info):
    return {kind: int(one.spoke.sum()) for kind, one in info.traffic.items()}


def test_what_was_sent_before_something_broke_is_counted():
    cohort, params = make_cohort([BATCH], BATCH), start()
    beyond = {**params, "top": jax.tree.map(lambda w: 1e39 * w, params["top"])}
    after, info = step_of(cohort, beyond)
    activations = {"activations_0": 1, "activations_1": 1}
    assert sent(info) == {**activations, "gradients_0": 0, "gradients_1": 0}
    assert int(info.dropped) == 1
    jax.tree.map(np.testing.assert_array_equal, after, beyond)
    # The other holder does not know that the first one's features are broken.
    x = cohort.examples.x.at[:, BLOCKS[0]].set(jnp.inf)
    broken = cohort._replace(examples=cohort.examples._replace(x=x))
    _, info = step_of(broken, params)
    assert sent(info)["activations_0"] == 0
    assert sent(info)["activations_1"] == 1
    assert sent(info)["gradients_1"] == 0


def test_a_step_to_what_is_not_finite_is_not_taken():
    cohort, params = make_cohort([8], BATCH), start()
    x = 1e3 * cohort.examples.x
    far = cohort._replace(examples=cohort.examples._replace(x=x))
    after, info = step_of(far, params, optimizer=optax.sgd(1e38))
    assert int(info.dropped) == 1
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(after))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks": [[0], []]}, "a feature in each"),
        ({"blocks": []}, "at least one block"),
        ({"blocks": [[0, 7]]}, "feature=7"),
        ({"blocks": [[0, 1], [1]]}, "feature=1 in one block"),
        ({"num_outputs": 0}, "num_outputs=0"),
    ],
)
def test_impossible_blocks_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        vertical_task(**changes)


def test_other_mistakes():
    with pytest.raises(ValueError, match="holders=9"):
        even_blocks([1, 1], 9)
    with pytest.raises(ValueError, match="one client"):
        run(make_cohort([3, 3], BATCH))
    with pytest.raises(ValueError, match="without memory"):
        run(make_cohort([3], BATCH), downlink=error_feedback(identity()))
