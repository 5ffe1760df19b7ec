"""Examples split over devices: every row comes back, and a round is the same."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp import data, distributed
from fedjax_comp.execution import device_mesh
from fedjax_comp.keys import make_key
from fedjax_comp.rounds import brought_to_all
from fedjax_comp.training import uniform_cohorts


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32", "bfloat16", "bool"])
def test_every_row_comes_back_to_the_bit(dtype):
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 256, (13, 5, 4), np.uint8)
    like = {"uint8": bits, "bool": bits > 99}
    x = like.get(dtype)
    if x is None:  # not a number among them, and negative zeros
        x = np.ascontiguousarray(bits[..., : jnp.dtype(dtype).itemsize]).view(dtype)
    if dtype == "bfloat16":  # of which XLA on a CPU has one alone
        x[np.isnan(x.astype(np.float32))] = 1
    split = distributed.split_rows({"x": x})
    assert distributed.is_split(split["x"]) == (jax.device_count() > 1)
    rows = np.array([12, 0, 3, 3, 7], np.int32)
    found = jax.jit(distributed.rows_of)(split, rows)["x"]
    assert found.dtype == x.dtype
    assert np.asarray(found).tobytes() == x[rows].tobytes()


def test_a_device_has_its_share_alone():
    split = distributed.split_rows(np.arange(101))
    sizes = {shard.data.shape for shard in split.addressable_shards}
    assert sizes == {(-(-101 // jax.device_count()),)}


@pytest.mark.parametrize("epochs", [1, 40])
def test_a_cohort_has_the_examples_it_had(epochs):
    population = data.federate(data.load("digits"), data.iid(), num_clients=20, seed=0)
    sample = uniform_cohorts(cohort_size=3, epochs=epochs, batch_size=7)
    split = population._replace(
        examples=distributed.split_rows(jax.tree.map(np.asarray, population.examples))
    )
    key, now = make_key(3), jnp.int32(0)

    @functools.partial(jax.jit, static_argnums=0)
    def seen(sample, data):
        cohort = sample(key, now, data)
        rows = cohort.clients.rows
        batch = jax.tree.map(lambda x: x[rows], cohort.examples)
        return batch, cohort.clients._replace(rows=()), cohort.examples.y.size

    batch, clients, _ = seen(sample, population)
    batch_split, clients_split, brought = seen(brought_to_all(sample), split)
    mask = np.asarray(clients.mask)
    for one, other in zip(
        jax.tree.leaves(batch), jax.tree.leaves(batch_split), strict=True
    ):
        np.testing.assert_array_equal(np.asarray(one)[mask], np.asarray(other)[mask])
    for one, other in zip(
        jax.tree.leaves(clients), jax.tree.leaves(clients_split), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    most = -(-1437 // device_mesh().size) * device_mesh().size
    assert int(brought) <= min(mask.size, most)
