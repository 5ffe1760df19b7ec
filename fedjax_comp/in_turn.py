"""What is done for one client at a time although clients are mapped all at once.

Training of a cohort fills an accelerator as one batch. Compression does not need to: a
client's update is long enough by itself, and a leading axis of clients costs a TPU
dearly. Its arrays are made of tiles of 8 x 128 numbers, and where selection, coding or
a rotation makes the clients the axis that varies fastest, ten of them are padded to
128: every array is 12.8 times its size. Under `jax.vmap`, a function that is wrapped by
`in_turn` therefore becomes a loop on a TPU, and a batch everywhere else.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
from jax.custom_batching import custom_vmap
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from fedjax_comp.base import PyTree

T = TypeVar("T")


def in_turn(
    function: Callable[..., T], *, platforms: Sequence[str] = ("tpu",)
) -> Callable[..., T]:
    """A function that `jax.vmap` turns into a loop on some platforms.

    The platform is the one that a program is compiled for, not the one it is traced
    on. Without `jax.vmap` nothing changes. The loop holds the arrays of one call at a
    time, and its branches (`jax.lax.cond`, `jax.lax.switch`) stay branches.

    Args:
      function: of trees of arrays. It may close over arrays that are mapped as well.
      platforms: those on which it becomes a loop, such as "tpu"; elsewhere a batch.

    Returns:
      `function`, computing the same.

    >>> import jax.numpy as jnp
    >>> square = in_turn(lambda x: x * x, platforms=("cpu",))
    >>> jax.vmap(square)(jnp.arange(3.0)).tolist()
    [0.0, 1.0, 4.0]
    """

    def wrapped(*arguments: PyTree) -> T:
        if jax.config.jax_disable_jit:  # type: ignore[attr-defined]
            return function(*arguments)  # op by op, for a debugger
        # As a program, what the function closes over is an argument like the others:
        # a `custom_vmap` knows no others.
        program, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
        leaves = (*program.consts, *jax.tree.leaves(arguments))
        num_closed = len(program.consts)

        def flat(*leaves: jax.Array) -> list[jax.Array]:
            closed = ClosedJaxpr(program.jaxpr, leaves[:num_closed])
            return jaxpr_as_fun(closed)(*leaves[num_closed:])

        results = _looped(flat, platforms)(*leaves)
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return wrapped


def _looped(
    function: Callable[..., list[jax.Array]], platforms: Sequence[str]
) -> Callable[..., list[jax.Array]]:
    """As `in_turn`, of arrays alone."""

    @custom_vmap
    def once(*leaves: jax.Array) -> list[jax.Array]:
        return function(*leaves)

    @once.def_vmap
    def mapped(
        axis_size: int, batched: Sequence[bool], *leaves: jax.Array
    ) -> tuple[list[jax.Array], list[bool]]:
        del axis_size
        places = [i for i, is_batched in enumerate(batched) if is_batched]

        def loop(*leaves: jax.Array) -> list[jax.Array]:
            def one(of_one: Sequence[jax.Array]) -> list[jax.Array]:
                own = list(leaves)
                for place, leaf in zip(places, of_one, strict=True):
                    own[place] = leaf
                # Once more the wrapped one: an outer `jax.vmap` is a loop as well.
                return once(*own)

            return jax.lax.map(one, [leaves[place] for place in places])

        def batch(*leaves: jax.Array) -> list[jax.Array]:
            axes = tuple(0 if i in places else None for i in range(len(leaves)))
            return jax.vmap(function, axes)(*leaves)

        results = jax.lax.platform_dependent(
            *leaves, default=batch, **dict.fromkeys(platforms, loop)
        )
        return results, [True] * len(results)

    return once
