"""What bad clients send in place of their updates, and the link that sends it.

The server does not know who is bad. Bad clients train like all others and know nothing
of the others' updates.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp import checks
from fedjax_comp.base import Compressor, Context, PyTree
from fedjax_comp.data import FederatedData

_ATTACK = 0x61  # apart from the indices by which compressors fold their keys

Lie = Callable[[jax.Array, PyTree], PyTree]
"""`(key, update) -> update`, of the same shapes and dtypes."""


class Attack(NamedTuple):
    """What bad clients do.

    Attributes:
      lie: what they send for what they learned.
      flips_labels: whether their examples have wrong labels.
    """

    lie: Lie
    flips_labels: bool = False


def nothing() -> Attack:
    """Bad clients that behave."""
    return Attack(lambda key, update: update)


def sign_flip(scale: float) -> Attack:
    """`-scale` times the update: away from where the client would go.

    >>> sign_flip(4.0).lie(jax.random.key(0), jnp.array([1.0])).tolist()
    [-4.0]
    """
    scale = checks.between("scale", scale, above=0, at_most=1e30)
    return Attack(lambda key, update: jax.tree.map(lambda x: -scale * x, update))


def gaussian(stddev: float) -> Attack:
    """Independent normal numbers, other ones every round, in place of the update."""
    stddev = checks.between("stddev", stddev, above=0, at_most=1e30)

    def lie(key: jax.Array, update: PyTree) -> PyTree:
        leaves, structure = jax.tree.flatten(update)
        drawn = [
            (stddev * jax.random.normal(own, x.shape)).astype(x.dtype)
            for own, x in zip(jax.random.split(key, len(leaves)), leaves, strict=True)
        ]
        return jax.tree.unflatten(structure, drawn)

    return Attack(lie)


def constant(value: float) -> Attack:
    """The same number everywhere, such as 1e38.

    >>> constant(1e38).lie(jax.random.key(0), jnp.zeros(1)).tolist()[0] > 9e37
    True
    """
    value = float(value)
    return Attack(lambda key, update: jax.tree.map(lambda x: 0 * x + value, update))


def not_a_number() -> Attack:
    """NaN everywhere."""
    return constant(float("nan"))


def label_flip() -> Attack:
    """Training on labels `L - 1 - y`, and sending what comes of it."""
    return nothing()._replace(flips_labels=True)


FACTORIES = {
    f.__name__: f
    for f in (constant, gaussian, label_flip, not_a_number, nothing, sign_flip)
}


def over_bad_link(
    link: Compressor, lies: Sequence[Lie], which: jax.Array, bad_clients: jax.Array
) -> Compressor:
    """An uplink over which the first clients of every cohort lie.

    Args:
      link: of what is sent, true or not.
      lies: that may be told.
      which: of them, int32 scalar.
      bad_clients: how many, int32 scalar: those of `Context.rank` below it.

    Returns:
      A `Compressor` with the states of `link`.
    """

    def encode(context: Context, tree: PyTree, sender: PyTree) -> tuple[PyTree, PyTree]:
        key = jax.random.fold_in(context.client_key, _ATTACK)
        lie = jax.lax.switch(which, lies, key, tree)
        bad = context.rank < bad_clients
        said = jax.tree.map(lambda x, y: jnp.where(bad, x, y), lie, tree)
        return link.encode(context, said, sender)

    return link._replace(encode=encode)


def flip_labels(population: FederatedData, bad_clients: int) -> FederatedData:
    """The same population, in which the first clients' labels are `L - 1 - y`.

    Args:
      population: each example with one client at most.
      bad_clients: how many.
    """
    offsets = np.asarray(population.offsets)
    rows = np.asarray(population.order)[: offsets[bad_clients]]
    labels = np.asarray(population.examples.y).copy()
    labels[rows] = population.spec.num_classes - 1 - labels[rows]
    examples = population.examples._replace(y=jnp.asarray(labels))
    return population._replace(examples=examples)
