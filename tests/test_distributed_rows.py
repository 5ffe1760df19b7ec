"""Examples and states split over devices: every row comes back, a round is the same."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_comp import data, distributed
from fedjax_comp.algorithms.fed_avg import fed_avg
from fedjax_comp.by_rows import from_array
from fedjax_comp.compress import error_feedback, top_k
from fedjax_comp.execution import device_mesh, sharded
from fedjax_comp.keys import make_key
from fedjax_comp.rounds import SPLIT, brought_to_all
from fedjax_comp.training import WHOLE, init_state, round_program, uniform_cohorts
from tests.test_rounds import NUM_CLIENTS, TASK, population, problem


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


@pytest.mark.thorough
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
    both = (
        one._replace(key=jax.random.key_data(one.key))
        for one in (clients, clients_split)
    )
    for one, other in zip(*map(jax.tree.leaves, both), strict=True):
        np.testing.assert_array_equal(one, other)
    most = -(-1437 // device_mesh().size) * device_mesh().size
    assert int(brought) <= min(mask.size, most)


@pytest.mark.parametrize("cohort", [1, 4, 5])
def test_rows_are_seated_and_put_back_to_the_bit(cohort):
    rng = np.random.default_rng(0)
    x = {
        "float": rng.normal(size=(13, 2)).astype(np.float32) * np.float32(-0.0),
        "half": rng.normal(size=(13,)).astype(jnp.bfloat16),
        "flag": rng.integers(0, 2, (13, 3)).astype(bool),
    }
    none = jnp.zeros((13, 0))
    ids = rng.permutation(13)[:cohort].astype(np.int32)
    new = jax.tree.map(lambda x: x[::-1][:cohort], x)

    @jax.jit
    def both(tree, ids, new):
        seated = distributed.seated_rows(tree, ids)
        return seated, distributed.put_rows(tree, ids, {**new, "none": seated["none"]})

    seated, put = both({**distributed.split_rows(x), "none": none}, ids, new)
    assert seated["none"].shape == (cohort, 0)
    assert put["none"].shape == (13, 0)
    for name, whole in x.items():
        assert np.asarray(seated[name]).tobytes() == whole[ids].tobytes()
        whole[ids] = new[name]
        assert np.asarray(put[name])[:13].tobytes() == whole.tobytes()
        assert distributed.is_split(put[name]) == (jax.device_count() > 1)


@pytest.mark.thorough
def test_split_states_train_as_whole_ones_do_to_the_bit():
    what = problem()
    algorithm = fed_avg(
        TASK,
        client_optimizer=optax.sgd(0.2),
        uplink=error_feedback(top_k(0.2)),
        execution=sharded(),
    )
    state = init_state(jax.random.key(1), algorithm, what.params, NUM_CLIENTS)
    split = state._replace(clients=distributed.split_rows(state.clients))

    def after(state, rows):
        program = round_program(algorithm, what.sample, max_rounds=5, rows=rows)
        return jax.jit(program)(state, population(), 5)[0]

    whole, other = after(state, WHOLE), after(split, SPLIT)
    assert np.any(jax.tree.leaves(whole.clients)[0])
    for one, two in zip(jax.tree.leaves(whole), jax.tree.leaves(other), strict=True):
        if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, two = jax.random.key_data(one), jax.random.key_data(two)
        rows = two if two.shape == one.shape else two[: len(one)]
        np.testing.assert_array_equal(one, rows)


def test_states_go_to_the_first_process_and_back_in_blocks(monkeypatch):
    monkeypatch.setattr("fedjax_comp.by_rows.BLOCK_BYTES", 40)
    x = np.arange(33, dtype=np.float32).reshape(11, 3)
    split = distributed.repeated_rows({"x": np.float32([7, 8, 9])}, 11)
    assert len(list(from_array(x).blocks())) == 4
    full = distributed.filled(split, {"x": from_array(x)})
    found = distributed.gathered(full, 11)["x"].whole()
    np.testing.assert_array_equal(found, x)
