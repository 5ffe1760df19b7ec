"""A small network on digits, and the links that both apps agree on."""

import functools

import jax
import jax.numpy as jnp
import optax

from fedjax_comp import data
from fedjax_comp.experiment.expressions import build
from fedjax_comp.flower import FlowerLink, flower_link

Params = dict[str, jax.Array]


def init() -> Params:
    first, second = jax.random.split(jax.random.key(0))
    return {
        "w1": 0.1 * jax.random.normal(first, (64, 128)),
        "b1": jnp.zeros(128),
        "w2": 0.1 * jax.random.normal(second, (128, 10)),
        "b2": jnp.zeros(10),
    }


def logits(params: Params, x: jax.Array) -> jax.Array:
    hidden = jax.nn.relu(x @ params["w1"] + params["b1"])
    return hidden @ params["w2"] + params["b2"]


@jax.jit
def step(params: Params, x: jax.Array, y: jax.Array) -> Params:
    def loss(params: Params) -> jax.Array:
        each = optax.softmax_cross_entropy_with_integer_labels(logits(params, x), y)
        return each.mean()

    return jax.tree.map(lambda w, g: w - 0.1 * g, params, jax.grad(loss)(params))


@functools.cache
def examples(part: str) -> tuple[jax.Array, jax.Array]:
    """Images as rows in [0, 1], and labels, of "train" or "test"."""
    found = getattr(data.load("digits"), part)
    x = jnp.asarray(found.x, jnp.float32).reshape(len(found.y), -1) / 16
    return x, jnp.asarray(found.y)


@functools.cache
def link_of(uplink: str, downlink: str) -> FlowerLink | None:
    """The app's links; None for messages as Flower sends them."""
    if not uplink:
        return None
    return flower_link(build("uplink", uplink), build("downlink", downlink), init())
