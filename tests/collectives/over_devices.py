"""A mean over devices, run two ways: on real ones, and mapped on one."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from fedjax_comp.keys import make_key

AXIS = "data"


def mapped(collective, width):
    """`(key, trees[w, ...], state[w, ...]) -> ...` by `vmap`: any number of devices."""

    @jax.jit
    def step(key, trees, state):
        run = functools.partial(collective.mean, key)
        slices = jax.tree.map(lambda x: x[:, None], state)
        mean, state, exchanged = jax.vmap(run, axis_name=AXIS, axis_size=width)(
            trees, slices
        )
        return mean, jax.tree.map(lambda x: x[:, 0], state), exchanged

    return step


def on_devices(collective, width=2):
    """The same by `shard_map`; every device's own mean comes back, `[w, ...]`."""
    split = PartitionSpec(AXIS)

    def step(key, trees, state):
        own = jax.tree.map(lambda x: x[0], trees)
        mean, state, exchanged = collective.mean(key, own, state)
        return jax.tree.map(lambda x: x[None], mean), state, exchanged

    return jax.jit(
        jax.shard_map(
            step,
            mesh=Mesh(jax.devices()[:width], (AXIS,)),
            in_specs=(PartitionSpec(), split, split),
            out_specs=split,
        )
    )


def one_mean(collective, trees, *, seed=0, make=mapped):
    """Every device's mean of one step, `[w, ...]`, the state after it, and the rest."""
    width = jax.tree.leaves(trees)[0].shape[0]
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), trees)
    state = collective.init(like, width)
    return make(collective, width)(make_key(seed), trees, state)


def gradients(width, seed=0):
    """A gradient a device, `[w, ...]`."""
    keys = jax.random.split(jax.random.key(seed), 3)
    return {
        "matrix": jax.random.normal(keys[0], (width, 9, 7)),
        "half": jax.random.normal(keys[1], (width, 5), jnp.bfloat16),
        "scalar": jax.random.normal(keys[2], (width,)),
    }
