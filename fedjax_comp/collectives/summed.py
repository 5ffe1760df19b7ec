"""A mean of linear messages: payloads are added on the way and decoded once.

Where `decode` is linear and needs no device's own key, the mean of the decoded messages
is the decoded mean of the messages (`fedjax_comp.compress.linear`), so that only a
`psum` of payloads is moved: Ivkin et al., "Communication-efficient distributed SGD with
sketching", 2019.
"""

import jax
import jax.numpy as jnp

from fedjax_comp import checks
from fedjax_comp import tree as trees
from fedjax_comp.base import Compressor, LinkState, PyTree, make_context
from fedjax_comp.collectives.contract import (
    AxisName,
    Collective,
    Exchanged,
    check_shared_key,
    float_leaves,
    on_every_device,
    own,
    unless_broken,
)
from fedjax_comp.collectives.messages import around_the_ring
from fedjax_comp.compress.linear import decode_sum


def summed_mean(compressor: Compressor, *, axis_name: AxisName) -> Collective:
    """The mean by one `psum` of payloads.

        mean = D(1/w sum_d C(x_d)) = 1/w sum_d D(C(x_d)).

    Trees are compressed as they are, in float32; `flattened` makes them one vector.
    Under `error_feedback` each device keeps what its own message lost.

    Args:
      compressor: a linear one, of payloads of floats: `identity()`, `count_sketch`,
        `random_k(shared=True)`, `random_projection`, `rotate`, or a chain of such.
      axis_name: the axis of `w` devices over which the mean is taken.

    Returns:
      A `Collective` with the kind of message "sum".

    Raises:
      ValueError: for a compressor that is not linear; when traced, for a payload with
        a leaf that is not of floats.

    Example:
      >>> from jax.sharding import Mesh, PartitionSpec
      >>> from fedjax_comp.compress import random_k
      >>> from fedjax_comp.keys import make_key
      >>> mesh = Mesh(jax.devices()[:2], ("data",))
      >>> mean = summed_mean(random_k(0.5, shared=True), axis_name="data")
      >>> everywhere, split = PartitionSpec(), PartitionSpec("data")
      >>> step = jax.shard_map(
      ...     lambda key, x: mean.mean(key, x[0], mean.init(x[0], 1))[0],
      ...     mesh=mesh,
      ...     in_specs=(everywhere, split),
      ...     out_specs=everywhere,
      ... )
      >>> gradients = jnp.array([[1.0] * 4, [3.0] * 4])
      >>> sorted(jax.jit(step)(make_key(0), gradients).tolist())
      [0.0, 0.0, 4.0, 4.0]
    """
    checks.compressor("compressor", compressor)
    if not compressor.linear:
        raise ValueError(
            "Expected a linear compressor to add payloads before they are decoded: use "
            "sharded_mean, or random_k(shared=True), count_sketch, random_projection."
        )

    def init(like: PyTree, num_devices: int) -> LinkState:
        width = checks.integer("num_devices", num_devices, minimum=1)
        float_leaves(like)
        return on_every_device(compressor.init(_in_float32(like)), width)

    def mean(
        key: jax.Array, tree: PyTree, state: LinkState
    ) -> tuple[PyTree, LinkState, Exchanged]:
        key = check_shared_key(key, axis_name)
        float_leaves(tree)
        old = own(state)
        me = jax.lax.axis_index(axis_name)
        wide = jax.tree.map(lambda x: x.astype(jnp.float32), tree)
        payload, sender = compressor.encode(make_context(key, me), wide, old.sender)
        summed, num_words = psum_mean(payload, axis_name)
        total = trees.cast_like(summed, payload)
        decoded = decode_sum(compressor, make_context(key, 0), total, old.receiver)
        found = trees.cast_like(decoded, tree)
        finite = trees.all_finite(found)
        return (
            found,
            unless_broken(finite, LinkState(sender, old.receiver), old),
            Exchanged(
                {"sum": around_the_ring(num_words, axis_name)}, finite[None], 0, 0
            ),
        )

    return Collective(init, mean)


def psum_mean(tree: PyTree, axis_name: AxisName) -> tuple[PyTree, int]:
    """The mean of a tree of floats by `psum` in float32, and the words that it adds up.

    Raises:
      ValueError: for a leaf that is not of floats.
    """
    width = jax.lax.axis_size(axis_name)
    for leaf in jax.tree.leaves(tree):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"Expected payloads of floats to add up, got a leaf of {leaf.dtype}: "
                "use sharded_mean, which packs what it sends."
            )
    # Divided before they are added: large numbers have a mean within float32.
    parts = jax.tree.map(lambda x: x.astype(jnp.float32) / width, tree)
    return jax.lax.psum(parts, axis_name), trees.size(tree)


def _in_float32(like: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32), like)
