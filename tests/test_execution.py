"""Execution strategies compute the same sums, and outputs in the cohort's order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from fedjax_comp.execution import auto, chunked, device_mesh, scanned, sharded, vmapped

STRATEGIES = {
    "vmapped": vmapped(),
    "chunked(1)": chunked(1),
    "chunked(3)": chunked(3),
    "chunked(9)": chunked(9),
    "sharded": sharded(),
    "sharded(chunked(2))": sharded(device_mesh(), chunked(2)),
    "auto": auto(),
}


def client_fn(shared, client):
    matrix, count = client["x"], client["count"]
    summand = {"product": shared @ matrix, "count": count}
    return summand, (matrix.sum(), jax.random.normal(client["key"], (2,)))


def clients(num_clients):
    key = jax.random.key(7)
    return {
        "x": jax.random.normal(key, (num_clients, 4, 3)),
        "count": jnp.arange(num_clients, dtype=jnp.int32),
        "key": jax.random.split(key, num_clients),
    }


@pytest.mark.parametrize("num_clients", [1, 4, 7])
@pytest.mark.parametrize("name", STRATEGIES)
def test_agrees_with_a_loop(name, num_clients):
    shared, cohort = jnp.arange(8.0).reshape(2, 4), clients(num_clients)
    total, (sums, draws) = jax.jit(STRATEGIES[name](client_fn))(shared, cohort)
    x = np.asarray(cohort["x"], np.float64)
    np.testing.assert_allclose(
        total["product"], sum(np.asarray(shared) @ m for m in x), rtol=1e-5, atol=1e-5
    )
    assert int(total["count"]) == num_clients * (num_clients - 1) // 2
    np.testing.assert_allclose(sums, x.sum((1, 2)), rtol=1e-5, atol=1e-5)
    for i, key in enumerate(cohort["key"]):
        np.testing.assert_array_equal(draws[i], jax.random.normal(key, (2,)))


def test_padding_adds_nothing_even_when_a_client_is_not_finite():
    # The last client is repeated to fill a chunk; its repeats must not be added.
    run = chunked(4)(lambda _, x: (x, x))
    total, outputs = run(None, jnp.array([1.0, 2.0, 4.0, 8.0, 16.0]))
    assert float(total) == 31.0
    assert outputs.tolist() == [1.0, 2.0, 4.0, 8.0, 16.0]


@pytest.mark.parametrize("name", ["scanned", *STRATEGIES])
def test_halves_are_added_up_in_float32_and_cast_once(name):
    run = {"scanned": scanned(), **STRATEGIES}[name]
    # bfloat16 counts to 256, and in float16 a sum above 1 no longer sees 2^-12.
    halves = {"b": jnp.bfloat16, "h": jnp.float16}
    ones = {n: jnp.ones(1000, dtype) for n, dtype in halves.items()}
    total, _ = jax.jit(run(lambda _, x: (x, ())))(None, ones)
    assert {n: x.dtype for n, x in total.items()} == halves
    assert {n: float(x) for n, x in total.items()} == {"b": 1000.0, "h": 1000.0}
    small = jnp.full(1000, 2.0**-12, jnp.float16).at[0].set(1.0)
    total, _ = jax.jit(run(lambda _, x: (x, ())))(None, small)
    assert float(total) == float(jnp.float16(1 + 999 / 4096))


def test_scan_holds_one_client_at_a_time():
    wide = 100_000
    cohort = jnp.arange(64.0)

    def one(shared, x):
        return shared * x, ()

    shared = jnp.ones(wide)
    compiled = jax.jit(scanned()(one)).lower(shared, cohort).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * 4 * wide


@pytest.mark.parametrize("strategy", [scanned(), sharded()])
def test_a_cohorts_states_are_held_once(strategy):
    """What a client hands back lies where it was read, and no other copy is made."""
    wide = 10_000
    cohort = {"order": jnp.arange(40.0), "memory": jnp.ones((40, wide))}

    def one(shared, client):
        memory = client["memory"] + shared * client["order"]
        # An output that fits no input, and one of the dtype of an input, not its shape.
        return memory, (
            client["order"] > 3,
            memory[::-1] - client["memory"],
            memory[:2],
        )

    step = jax.jit(strategy(one), donate_argnums=1).lower(2.0, cohort).compile()
    memory = step.memory_analysis()
    assert memory.temp_size_in_bytes < 8 * 4 * wide
    total, (large, turned, first) = step(2.0, jax.tree.map(jnp.copy, cohort))
    order = np.arange(40.0)
    np.testing.assert_allclose(total, np.full(wide, (1 + 2 * order).sum()))
    np.testing.assert_array_equal(large, order > 3)
    np.testing.assert_array_equal(turned, np.tile(2 * order[:, None], wide))
    np.testing.assert_array_equal(first, np.tile(1 + 2 * order[:, None], 2))


@pytest.mark.parametrize("axis_type", [None, AxisType.Auto, AxisType.Explicit])
def test_a_mesh_of_any_axis_type(axis_type):
    types = {} if axis_type is None else {"axis_types": (axis_type,)}
    mesh = jax.make_mesh((2,), ("clients",), **types)  # None: what this jax makes it
    run = sharded(mesh)(lambda factor, x: (factor * x, x * x))
    for x in (jnp.arange(4.0), jnp.arange(7.0)):
        for compiled in (run, jax.jit(run)):
            total, outputs = compiled(2.0, x)
            assert float(total) == 2 * float(x.sum())
            np.testing.assert_array_equal(outputs, x * x)
    assert len(jax.jit(run)(2.0, jnp.arange(4.0))[1].sharding.device_set) == 2


def test_arrays_laid_out_on_an_explicit_mesh():
    mesh = jax.make_mesh((2,), ("clients",), axis_types=(AxisType.Explicit,))
    split = NamedSharding(mesh, PartitionSpec("clients"))
    x = jax.device_put(jnp.arange(4.0), split)
    total, outputs = jax.jit(sharded(mesh)(lambda _, x: (x, x + 1)))(None, x)
    assert (float(total), outputs.tolist()) == (6.0, [1.0, 2.0, 3.0, 4.0])


@pytest.mark.parametrize("name", STRATEGIES)
def test_arrays_without_elements(name):
    num_clients = 7
    cohort = clients(num_clients)
    shared = {"none": jnp.zeros((0, 2), jnp.bfloat16), "factor": 2.0}
    cohort["queue"] = jnp.zeros((num_clients, 0, 3), jnp.int32)
    cohort["keys"] = jax.random.split(jax.random.key(0), (num_clients, 0))

    def one(shared, client):
        kept = {"queue": client["queue"], "x": client["x"], "keys": client["keys"]}
        summand = {"none": shared["none"], "x": shared["factor"] * client["x"]}
        assert client["queue"].shape == (0, 3)
        return summand, kept | {"sum": client["queue"].sum(axis=0)}

    total, outputs = jax.jit(STRATEGIES[name](one))(shared, cohort)
    np.testing.assert_allclose(total["x"], 2 * cohort["x"].sum(axis=0), atol=1e-5)
    assert (total["none"].shape, total["none"].dtype) == ((0, 2), jnp.bfloat16)
    np.testing.assert_array_equal(outputs["x"], cohort["x"])
    np.testing.assert_array_equal(outputs["sum"], np.zeros((num_clients, 3)))
    for part in ("queue", "keys"):
        assert outputs[part].shape == cohort[part].shape
        assert outputs[part].dtype == cohort[part].dtype


def test_refuses_what_cannot_be_run():
    with pytest.raises(ValueError, match="size=0"):
        chunked(0)
    with pytest.raises(ValueError, match=r"size=2\.5, an integer"):
        chunked(2.5)
    with pytest.raises(ValueError, match="axis named 'clients'"):
        sharded(jax.make_mesh((1,), ("other",), devices=jax.devices()[:1]))
    uneven = {"a": jnp.zeros(2), "b": jnp.zeros(3)}
    with pytest.raises(ValueError, match="one common leading axis"):
        chunked(2)(lambda _, c: (c["a"], ()))(None, uneven)
