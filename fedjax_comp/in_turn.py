"""What is done for one client at a time although clients are mapped all at once.

Training of a cohort fills an accelerator as one batch. Compression does not need to: a
client's update is long enough by itself, and a leading axis of clients costs a TPU
dearly. Its arrays are made of tiles of 8 x 128 numbers, and where selection, coding or
a rotation makes the clients the axis that varies fastest, ten of them are filled up to
128: every array is 12.8 times its size. What is wrapped by `in_turn` is therefore
looped over under `jax.vmap` on a TPU, and is a batch everywhere else.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
from jax.custom_batching import custom_vmap

from fedjax_comp.base import PyTree

T = TypeVar("T")


def in_turn(
    function: Callable[..., T], *, platforms: Sequence[str] = ("tpu",)
) -> Callable[..., T]:
    """A function that `jax.vmap` turns into a loop on some platforms.

    The platform is the one that a program is compiled for, not the one it is traced
    on. Without `jax.vmap` nothing changes. A loop has one call's arrays at a time, and
    its branches (`jax.lax.cond`, `jax.lax.switch`) stay branches.

    Args:
      function: of trees of arrays. What it closes over must not be mapped.
      platforms: where there is a loop, such as "tpu"; elsewhere there is a batch.

    Returns:
      `function`, computing the same.

    >>> import jax.numpy as jnp
    >>> square = in_turn(lambda x: x * x, platforms=("cpu",))
    >>> jax.vmap(square)(jnp.arange(3.0)).tolist()
    [0.0, 1.0, 4.0]
    """

    @custom_vmap
    def once(*arguments: PyTree) -> T:
        return function(*arguments)

    @once.def_vmap
    def mapped(
        axis_size: int, batched: PyTree, *arguments: PyTree
    ) -> tuple[PyTree, PyTree]:
        del axis_size
        leaves, structure = jax.tree.flatten(arguments)
        places = [i for i, one in enumerate(jax.tree.leaves(batched)) if one]

        def loop(*leaves: jax.Array) -> T:
            def one(of_one: Sequence[jax.Array]) -> T:
                own = list(leaves)
                for place, leaf in zip(places, of_one, strict=True):
                    own[place] = leaf
                # Once more the wrapped one: an outer `jax.vmap` is a loop as well.
                return once(*jax.tree.unflatten(structure, own))

            return jax.lax.map(one, [leaves[place] for place in places])

        def batch(*leaves: jax.Array) -> T:
            axes = tuple(0 if i in places else None for i in range(len(leaves)))
            each = jax.vmap(
                lambda *own: function(*jax.tree.unflatten(structure, own)), axes
            )
            return each(*leaves)

        result = jax.lax.platform_dependent(
            *leaves, default=batch, **dict.fromkeys(platforms, loop)
        )
        return result, jax.tree.map(lambda _: True, result)

    return once
