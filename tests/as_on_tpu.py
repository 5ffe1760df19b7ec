"""What is traced for a TPU, run on the machine at hand: paths that are to agree."""

from collections.abc import Callable
from typing import Any
from unittest import mock

import jax

_ORDINARY = jax.lax.platform_dependent


def _branch(
    *arguments: Any, default: Callable | None = None, **platforms: Callable
) -> Any:
    if "tpu" in platforms:
        return platforms["tpu"](*arguments)
    return _ORDINARY(*arguments, default=default, **platforms)


def as_on_tpu(function: Callable) -> Callable:
    """A function, compiled, that takes the branches that are for a TPU."""

    def call(*arguments: Any) -> Any:
        with mock.patch.object(jax.lax, "platform_dependent", _branch):
            # A function of its own, of which no trace has been kept.
            return jax.jit(lambda *own: function(*own))(*arguments)

    return call
