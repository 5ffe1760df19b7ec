"""Where a program has float64 on, what is float32 stays so: all is traced, none is run.

Constants without a dtype are float64 there, and the first that meets a float32 in a
loop or a slice is a TypeError.
"""

import jax
import jax.numpy as jnp
import pytest

from fedjax_comp import models
from fedjax_comp.base import Examples, make_context
from fedjax_comp.data import arrivals, streams
from fedjax_comp.data.forest_stream import forest_model
from fedjax_comp.wire.accounting import num_bits
from tests.conformance.algorithm_checks import SIZES, STRATEGIES
from tests.conformance.algorithm_table import ALGORITHMS
from tests.conformance.compressor_table import COMPRESSORS
from tests.problems import make_cohort, softmax_task, stack_clients

TREE = {
    "kernel": jnp.ones((7, 6), jnp.float32),
    "vector": jnp.ones(40, jnp.float32),
    "half": jnp.ones(9, jnp.bfloat16),
}


def kinds(tree):
    """Shapes and dtypes, without weak types."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


@pytest.mark.parametrize("entry", COMPRESSORS, ids=lambda entry: entry.name)
def test_compressor(entry):
    def there_and_back(tree, sender, receiver):
        context = make_context(jax.random.key(0), 0)
        payload, sender = compressor.encode(context, tree, sender)
        decoded, receiver = compressor.decode(context, payload, receiver)
        return decoded, sender, receiver, num_bits(payload)

    with jax.enable_x64(True):
        compressor = entry.make()
        state = compressor.init(TREE)
        decoded, sender, receiver, bits = jax.eval_shape(there_and_back, TREE, *state)
        assert decoded == kinds(TREE)
        assert (sender, receiver) == tuple(kinds(state))
        assert all(count.dtype == jnp.uint32 for count in bits.variable)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ALGORITHMS)
def test_algorithm(name):
    params = softmax_task().init(jax.random.key(1))
    cohort = make_cohort(SIZES, batch_size=3)
    with jax.enable_x64(True):
        algorithm = ALGORITHMS[name].make(STRATEGIES["scanned"], False)
        server, client = algorithm.init(jax.random.key(2), params)
        clients = stack_clients(client, len(SIZES))
        step = jax.eval_shape(
            algorithm.round, jax.random.key(3), server, clients, cohort
        )
        assert step[:2] == (kinds(server), kinds(clients))
        assert kinds(jax.eval_shape(algorithm.params, step[0])) == kinds(params)


NETWORKS = {
    "char_lstm": (models.char_lstm(4, widths=(8,)), (5,), "int32"),
    "char_transformer": (models.char_transformer(8, depth=1), (5,), "int32"),
    "cnn": (models.cnn((4,), hidden=8), (8, 8, 1), "float32"),
    "fed_para": (models.fed_para(models.cnn((32,)), rank=1), (8, 8, 1), "float32"),
    "linear": (models.linear(), (8, 8, 1), "float32"),
    "mlp": (models.mlp(8), (8, 8, 1), "float32"),
    "resnet": (models.resnet(8, width=8), (8, 8, 1), "float32"),
    "resnet18": (models.resnet18(width=8), (8, 8, 1), "float32"),
    "vgg": (models.vgg((8,)), (8, 8, 1), "float32"),
}


@pytest.mark.parametrize("name", models.FACTORIES)
def test_model(name):
    model, shape, dtype = NETWORKS[name]
    task = models.classification(model(10), input_shape=shape, input_dtype=dtype)
    sequences = dtype == "int32"
    examples = Examples(
        jax.ShapeDtypeStruct((3, *shape), "int32" if sequences else "uint8"),
        jax.ShapeDtypeStruct((3, *shape) if sequences else (3,), "int32"),
    )
    mask = jax.ShapeDtypeStruct((3,), "bool")

    def train(key, examples, mask):
        params = task.init(key)
        return params, jax.value_and_grad(task.loss)(params, examples, mask, key)

    with jax.enable_x64(True):
        found = jax.eval_shape(train, jax.random.key(0), examples, mask)
    assert {x.dtype for x in jax.tree.leaves(found)} == {jnp.dtype("float32")}


def test_streams():
    spec = streams.StreamSpec(num_learners=2, updates=1, batch_size=3)
    drifts = streams.drift_times(9, 1, seed=0)
    with jax.enable_x64(True):
        drawn = streams.synthetic_data(drifts=drifts, seed=0)
        key, one = jax.random.key(0), jnp.int32(1)
        cohorts = [
            jax.eval_shape(forest_model(spec), key, one, drawn),
            jax.eval_shape(streams.graphical_model(spec), key, one, drawn),
            jax.eval_shape(
                arrivals.arrivals(arrivals.ArrivalSpec(2, 4), arrivals.draw_synthetic),
                key,
                one,
                arrivals.synthetic(key, [1.0, 0.5]),
            ),
        ]
    for cohort in cohorts:
        assert cohort.examples.x.dtype == jnp.float32
        assert cohort.clients.num_examples.dtype == jnp.int32
