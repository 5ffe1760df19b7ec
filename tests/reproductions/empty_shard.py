"""`jax.shard_map` of an array without elements beside another: jaxlib 0.11.2 crashes.

    JAX_PLATFORMS=cpu python tests/reproductions/empty_shard.py

prints the two shapes, or ends by a segmentation fault while XLA compiles. Needed are
two devices, an array with an empty axis and any second array; whether the arrays are
padded, sliced, scanned or only handed through makes no difference.

    jaxlib    0.10.2   0.11.0   0.11.1   0.11.2   0.12.0   0.12.0.1
    ends      well     well     well     crash    well     well

The native stack at the crash (gdb):

    mlir::sdy::ManualComputationUnusedInputsPattern::matchAndRewrite
    mlir::applyPatternsGreedily
    Canonicalizer::runOnOperation
    xla::sdy::ShardyXLA::RunImpl

One pass earlier, `zero_sized_hlo_elimination` replaced the empty operand of the call
that is the body of the `shard_map` by a constant, so that the call no longer takes all
results of `xla.sdy.GlobalToLocalShape`, as Shardy expects. No public report of it was
found (2026-11-28). `fedjax_comp/shards.py` keeps empty arrays out of `jax.shard_map`.
"""

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

jax.config.update("jax_num_cpu_devices", 2)
mesh = jax.make_mesh((2,), ("clients",), axis_types=(AxisType.Auto,))
split = PartitionSpec("clients")


@jax.jit
def program(empty: jax.Array, full: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Hands both arrays through."""
    return jax.shard_map(
        lambda *arrays: arrays, mesh=mesh, in_specs=split, out_specs=split
    )(empty, full)


if __name__ == "__main__":
    print(*(x.shape for x in program(jnp.zeros((4, 0, 5)), jnp.zeros(4))))
