"""The collective that suits a compressor, and a mean in one call."""

import jax

from fedjax_comp import checks
from fedjax_comp.base import Compressor, PyTree
from fedjax_comp.collectives.contract import AxisName, Collective, Exchanged
from fedjax_comp.collectives.sharded import sharded_mean
from fedjax_comp.collectives.summed import summed_mean


def collective_mean(compressor: Compressor, *, axis_name: AxisName) -> Collective:
    """`summed_mean` of a linear compressor, `sharded_mean` of any other.

    Raises:
      ValueError: when `compressor` is not a Compressor.

    >>> from fedjax_comp.compress import qsgd
    >>> collective_mean(qsgd(8), axis_name="data").init(jax.numpy.zeros(3), 2)
    ShardedState(scatter=LinkState(sender=(), receiver=()),
                 gather=LinkState(sender=(), receiver=()))
    """
    checks.compressor("compressor", compressor)
    make = summed_mean if compressor.linear else sharded_mean
    return make(compressor, axis_name=axis_name)


def compressed_mean(
    key: jax.Array, tree: PyTree, compressor: Compressor, *, axis_name: AxisName
) -> tuple[PyTree, Exchanged]:
    """The mean of every device's tree over a mesh axis, inside `jax.shard_map`.

    It takes the place of `jax.lax.pmean(tree, axis_name)`, for compressors without
    memory; for others use `collective_mean`.

    Args:
      key: the same on all devices, another one in every step.
      tree: of floats, this device's own.
      compressor: how it travels.
      axis_name: the axis over which the mean is taken.

    Returns:
      The mean, the same on all devices bit for bit, and what was moved for it.

    Raises:
      ValueError: for a compressor with a memory, for leaves that are not of floats, for
        payloads whose length depends on their values, and for a key that differs
        between the devices.

    Example:
      >>> import jax.numpy as jnp
      >>> from jax.sharding import Mesh, PartitionSpec
      >>> from fedjax_comp.compress import stochastic_quantize
      >>> from fedjax_comp.keys import make_key
      >>> mesh = Mesh(jax.devices()[:2], ("data",))
      >>> def average(key, gradient):
      ...     return compressed_mean(
      ...         key, gradient[0], stochastic_quantize(levels=256), axis_name="data"
      ...     )[0]
      >>> step = jax.shard_map(
      ...     average,
      ...     mesh=mesh,
      ...     in_specs=(PartitionSpec(), PartitionSpec("data")),
      ...     out_specs=PartitionSpec(),
      ... )
      >>> gradients = jnp.array([[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0]])
      >>> jax.jit(step)(make_key(0), gradients).round().tolist()
      [2.0, 3.0, 4.0, 5.0]
    """
    collective = collective_mean(compressor, axis_name=axis_name)
    why = "for a mean in one call: use collective_mean and carry its state."
    checks.memoryless(compressor, tree, why)
    mean, _, exchanged = collective.mean(key, tree, collective.init(tree, 1))
    return mean, exchanged
