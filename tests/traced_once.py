"""A compiled function that may be traced once: the first call's program serves all."""

import functools
from collections.abc import Callable
from typing import Any

import jax


def traced_once(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """`jax.jit(function, **options)`; fails where other shapes or dtypes are given."""
    traced: list[Any] = []

    @functools.wraps(function)
    def counted(*arguments: Any) -> Any:
        traced.append(jax.tree.map(jax.typeof, arguments))
        assert len(traced) == 1, f"Traced once for {traced[0]}, then for {traced[1]}."
        return function(*arguments)

    return jax.jit(counted, **options)
