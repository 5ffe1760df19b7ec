"""Median seconds of a network's call and of encoding a message, measured in turns."""

import statistics
import time
from collections.abc import Callable, Mapping

import jax
import numpy as np
from flax import linen as nn

from fedjax_comp.base import Compressor, PyTree, make_context
from fedjax_comp.models import Compact

CALLS = 21


def apply_jitted(module: nn.Module) -> jax.stages.Wrapped:
    """`(params, x) -> outputs`, compiled."""
    return jax.jit(lambda params, x: module.apply({"params": params}, x))


def latency_seconds(models: Mapping[str, Compact], x: np.ndarray) -> dict[str, float]:
    """Median seconds of one call of each network, all of them on one device.

    Parameters that a run leaves lie on every device of its mesh, and each of these then
    makes the call. Calls are taken in turn, so that load from outside meets all
    networks, and each turn begins with another one.

    Args:
      models: name to network.
      x: a batch of inputs, `[B, ...]`.
    """
    device = jax.local_devices()[0]
    inputs = jax.device_put(x, device)
    calls = {
        name: _call(
            apply_jitted(model.module), jax.device_put(model.params, device), inputs
        )
        for name, model in models.items()
    }
    return median_seconds(calls)


def encode_seconds(compressor: Compressor, model: PyTree) -> float:
    """Median seconds in which one device encodes a model, decompositions included."""
    device = jax.local_devices()[0]
    context = make_context(jax.random.key(0), 0)
    encode = jax.jit(lambda tree, sender: compressor.encode(context, tree, sender))
    sender = jax.device_put(compressor.init(model).sender, device)
    call = _call(encode, jax.device_put(model, device), sender)
    return median_seconds({"encode": call})["encode"]


def median_seconds(calls: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each call after its first one, taken in turn.

    >>> slow = lambda: time.sleep(0.001)
    >>> seconds = median_seconds({"fast": lambda: None, "slow": slow})
    >>> seconds["fast"] < seconds["slow"]
    True
    """
    names = list(calls)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for call in calls.values():
        call()
    for i in range(CALLS):
        first = i % len(names)
        for name in names[first:] + names[:first]:
            started = time.perf_counter()
            calls[name]()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(each) for name, each in seconds.items()}


def _call(function: jax.stages.Wrapped, *arguments: PyTree) -> Callable[[], object]:
    return lambda: jax.block_until_ready(function(*arguments))
