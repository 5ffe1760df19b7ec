"""What compressors cost, measured on this machine.

A cost is XLA's count of operations and bytes, calibrated by the seconds that the
compiled encoder and decoder really take (`fedjax_comp.network.devices`).
"""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp.base import Bits, Compressor, PyTree, make_context
from fedjax_comp.keys import make_key
from fedjax_comp.network.devices import NOTHING, Cost, Device, calibrated
from fedjax_comp.wire.accounting import num_bits

REPEATS = 20


def fixed_bytes(link: Compressor, like: PyTree) -> int | None:
    """The bytes of a link's message where they are known from shapes, else None."""

    def length(tree: PyTree) -> Bits:
        state = link.init(tree)
        context = make_context(make_key(0), 0)
        return num_bits(link.encode(context, tree, state.sender)[0])

    try:
        bits = jax.eval_shape(length, like)
    except ValueError:
        return None  # what travels there has not the shape of the model
    return None if bits.variable else -(-bits.fixed // 8)


def codec_cost(link: Compressor, like: PyTree, host: Device) -> tuple[Cost, Cost]:
    """Costs of encoding and decoding, by XLA's analysis, calibrated by measurement.

    Args:
      link: the compressor.
      like: the tree that travels; a random one of its shapes is encoded.
      host: what this machine reaches.

    Returns:
      The two costs; nothing for a link on which the model does not travel.
    """
    try:
        encode, decode, _ = codec_measures(link, like, host)
    except ValueError:
        return NOTHING, NOTHING
    return encode, decode


def codec_measures(
    link: Compressor, like: PyTree, host: Device
) -> tuple[Cost, Cost, float]:
    """As `codec_cost`, and `||C(x) - x||^2 / ||x||^2` of the Gaussian encoded.

    Raises:
      ValueError: when the model cannot travel there.
    """
    leaves, structure = jax.tree.flatten(like)
    random = np.random.default_rng(0)
    numbers = [
        jnp.asarray(random.normal(size=x.shape), x.dtype)
        if jnp.issubdtype(x.dtype, jnp.floating)
        else x
        for x in leaves
    ]
    tree = jax.tree.unflatten(structure, numbers)
    context = make_context(make_key(1), 0)
    state = link.init(tree)
    encode = jax.jit(link.encode).lower(context, tree, state.sender).compile()
    payload, _ = encode(context, tree, state.sender)
    decode = jax.jit(link.decode).lower(context, payload, state.receiver).compile()
    decoded, _ = decode(context, payload, state.receiver)
    return (
        compiled_cost(encode, (context, tree, state.sender), host),
        compiled_cost(decode, (context, payload, state.receiver), host),
        relative_error(tree, decoded),
    )


def relative_error(sent: PyTree, got: PyTree) -> float:
    """`||got - sent||^2 / ||sent||^2`, in float64.

    >>> relative_error([np.array([3.0, 4.0])], [np.array([3.0, 3.0])])
    0.04
    """
    error, energy = 0.0, 0.0
    for x, y in zip(jax.tree.leaves(sent), jax.tree.leaves(got), strict=True):
        a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
        error, energy = error + np.sum((a - b) ** 2), energy + np.sum(a**2)
    return float(error / max(energy, 1e-300))


def compiled_cost(
    compiled: jax.stages.Compiled,
    arguments: tuple,
    host: Device,
    repeats: int = REPEATS,
) -> Cost:
    """The cost of a compiled program, the fastest of several calls timed.

    Args:
      compiled: the program.
      arguments: that it is called with.
      host: what this machine reaches.
      repeats: calls.
    """
    analysis = compiled.cost_analysis() or {}
    seconds = fastest(lambda: jax.block_until_ready(compiled(*arguments)), repeats)
    return calibrated(
        max(0.0, analysis.get("flops", 0.0)),
        max(0.0, analysis.get("bytes accessed", 0.0)),
        seconds,
        host,
    )


def host_device() -> Device:
    """What this machine reaches: a matrix product and a copy, the best of several."""
    size = 512
    x = jnp.ones((size, size), jnp.float32)
    multiply = jax.jit(jnp.dot)
    jax.block_until_ready(multiply(x, x))
    product = fastest(lambda: jax.block_until_ready(multiply(x, x)))
    source, target = np.ones(1 << 23, np.float32), np.empty(1 << 23, np.float32)
    copy = fastest(lambda: np.copyto(target, source))
    return Device("host", 2.0 * size**3 / product, 2.0 * source.nbytes / copy, 0.0)


def fastest(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """Seconds of the fastest of several calls."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)
