"""Where a program has float64 on, what is float32 stays so: all is traced, none is run.

Constants without a dtype are float64 there, and the first that meets a float32 in a
loop or a slice is a TypeError.
"""

import jax
import jax.numpy as jnp
import pytest

from fedjax_comp.base import make_context
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
