"""What is done to a client's gradients before its optimizer sees them."""

import jax
import jax.numpy as jnp
import optax

from fedjax_comp import tree
from fedjax_comp.base import PyTree


def summed() -> optax.GradientTransformation:
    """Leaves gradients as they are and keeps their sum, in float32 at least.

    >>> watch = summed()
    >>> _, total = watch.update(jnp.array([1.0]), watch.init(jnp.zeros(1)))
    >>> watch.update(jnp.array([2.0]), total)[1].tolist()
    [3.0]
    """

    def update(
        updates: PyTree, total: PyTree, params: PyTree | None = None
    ) -> tuple[PyTree, PyTree]:
        del params
        return updates, optax.tree.add(total, tree.widened(updates))

    def init(params: PyTree) -> PyTree:
        return optax.tree.zeros_like(tree.widened(params))

    return optax.GradientTransformation(init, update)


def mean_gradient(total: PyTree, steps: jax.Array, like: PyTree) -> PyTree:
    """The mean of the gradients that `summed` has seen, zeros where there was none.

    Args:
      total: the state of `summed`.
      steps: how many there were, int32 scalar.
      like: a tree whose dtypes the mean is to have.

    >>> mean_gradient(jnp.array([3.0]), jnp.int32(2), jnp.zeros(1)).tolist()
    [1.5]
    """
    count = jnp.maximum(steps, 1).astype(jnp.float32)
    mean = jax.tree.map(lambda g: g / count.astype(g.dtype), total)
    return tree.cast_like(mean, like)


def shifted(by: PyTree) -> optax.GradientTransformation:
    """Adds the same tree to every gradient.

    >>> shift = shifted(jnp.array([2.0]))
    >>> shift.update(jnp.array([1.0]), shift.init(()))[0].tolist()
    [3.0]
    """
    return optax.stateless(lambda updates, params: optax.tree.add(updates, by))


def pulled(to: PyTree, strength: float) -> optax.GradientTransformation:
    """Adds `strength * (params - to)`, the gradient of half its squared distance.

    >>> pull = pulled(jnp.array([1.0]), 0.5)
    >>> pull.update(jnp.array([0.0]), pull.init(()), jnp.array([3.0]))[0].tolist()
    [1.0]
    """

    def update(updates: PyTree, params: PyTree) -> PyTree:
        return jax.tree.map(lambda g, w, t: g + strength * (w - t), updates, params, to)

    return optax.stateless(update)
