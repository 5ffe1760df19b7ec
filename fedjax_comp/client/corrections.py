"""What is done to a client's gradients before its optimizer sees them."""

import jax
import optax

from fedjax_comp.base import PyTree


def summed() -> optax.GradientTransformation:
    """Leaves gradients as they are and keeps their sum as its state.

    >>> import jax.numpy as jnp
    >>> watch = summed()
    >>> _, total = watch.update(jnp.array([1.0]), watch.init(jnp.zeros(1)))
    >>> watch.update(jnp.array([2.0]), total)[1].tolist()
    [3.0]
    """

    def update(
        updates: PyTree, total: PyTree, params: PyTree | None = None
    ) -> tuple[PyTree, PyTree]:
        del params
        return updates, optax.tree.add(total, updates)

    return optax.GradientTransformation(optax.tree.zeros_like, update)


def shifted(by: PyTree) -> optax.GradientTransformation:
    """Adds the same tree to every gradient.

    >>> import jax.numpy as jnp
    >>> shift = shifted(jnp.array([2.0]))
    >>> shift.update(jnp.array([1.0]), shift.init(()))[0].tolist()
    [3.0]
    """
    return optax.stateless(lambda updates, params: optax.tree.add(updates, by))


def pulled(to: PyTree, strength: float) -> optax.GradientTransformation:
    """Adds `strength * (params - to)`, the gradient of half its squared distance.

    >>> import jax.numpy as jnp
    >>> pull = pulled(jnp.array([1.0]), 0.5)
    >>> pull.update(jnp.array([0.0]), pull.init(()), jnp.array([3.0]))[0].tolist()
    [1.0]
    """

    def update(updates: PyTree, params: PyTree) -> PyTree:
        return jax.tree.map(lambda g, w, t: g + strength * (w - t), updates, params, to)

    return optax.stateless(update)
