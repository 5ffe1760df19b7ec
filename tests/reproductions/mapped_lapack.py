"""Two mapped decompositions in one program: on two threads jaxlib 0.10.2 hangs.

    JAX_PLATFORMS=cpu taskset -c 0,1 python tests/reproductions/mapped_lapack.py

prints the number of decompositions, or waits for ever. A mapped `eigh` or `qr` hands
its matrices to the pool of threads that also runs the program (`ParallelBatchMap`) and
waits for them: when every thread of the pool waits in such a call, nothing is left to
do what they wait for.

    jaxlib        0.10.2   0.11.2   0.12.0.1
    two threads   hangs    ends     ends

Small matrices are done where they are called, and never hang. No public report of it
was found (2026-11-28). `fedjax_comp/compress/low_rank/decompositions.py` maps matrices
one after another.
"""

import jax
import jax.numpy as jnp


@jax.jit
@jax.vmap
def program(x: jax.Array) -> list[jax.Array]:
    """Eigenvalues and bases of four matrices, none of which needs another."""
    several = [x + i for i in range(4)]
    values = [jnp.linalg.eigh(one.T @ one)[0] for one in several]
    return values + [jnp.linalg.qr(one)[0] for one in several]


if __name__ == "__main__":
    drawn = jax.random.normal(jax.random.key(0), (10, 784, 72))
    for _ in range(30):
        found = jax.block_until_ready(program(drawn))
    print(len(found))
