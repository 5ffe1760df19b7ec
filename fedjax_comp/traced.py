"""A function traced once, for its shapes and for what it computes.

A loop has to know the shapes of what its body returns before the body is traced, and
`jax.eval_shape` traces it to find them. A round has such loops inside one another (over
rounds, over clients, on every device), so that what a client does would be traced six
times, which takes longer than compiling it.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from fedjax_comp.base import PyTree

T = TypeVar("T")


def traced_once(
    function: Callable[..., T], *arguments: PyTree
) -> tuple[Callable[..., T], T]:
    """A function traced for arguments like these, and the shapes of its result.

    With `JAX_DISABLE_JIT` it is the function itself, for a debugger to step into.

    Args:
      function: of trees of arrays. It may close over arrays, traced ones as well.
      arguments: arrays, or their `jax.ShapeDtypeStruct`.

    Returns:
      `function`, for arguments of these shapes and dtypes alone, and its result with
      `jax.ShapeDtypeStruct` in place of arrays.

    >>> import jax.numpy as jnp
    >>> double, shape = traced_once(lambda x: 2 * x, jnp.zeros(3))
    >>> double(jnp.arange(3.0)).tolist(), shape.shape
    ([0.0, 2.0, 4.0], (3,))
    """
    if jax.config.jax_disable_jit:  # type: ignore[attr-defined]
        return function, jax.eval_shape(function, *arguments)
    program, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
    structure = jax.tree.structure(shapes)

    def run(*arguments: PyTree) -> T:
        closed = ClosedJaxpr(program.jaxpr, program.consts)
        results = jaxpr_as_fun(closed)(*jax.tree.leaves(arguments))
        return jax.tree.unflatten(structure, results)

    return run, shapes
