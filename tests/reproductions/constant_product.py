"""A product with a matrix of one number, and a reduction of it: XLA's CPU is wrong.

    JAX_PLATFORMS=cpu python tests/reproductions/constant_product.py

prints how many of the sums are right, 64 or none. The matrix has to be made inside the
program, of one number everywhere (`ones`, `zeros`, `full`), on the right of a product
of eight columns and 64 rows or more, and a sum or maximum has to follow. What comes out
are numbers that happen to lie in memory.

    jaxlib    0.10.2   0.11.0   0.11.2   0.12.0.1
    right     none     none     none     none

XLA hands the reduction with what feeds it to YNNPACK (`__ynn_fusion`), which it does
since 0.10.2. Another program that this makes wrong, of a small matrix that is made
inside and more than 32,768 rows, is github.com/jax-ml/jax/issues/39103; with
`XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type=-reduce` both are right. Products with
matrices that are arguments were right in all that was tried (2026-11-30).

So parameters are arguments of a program: `jax.jit(lambda key: loss(init(key), ...))`
of a layer that begins with zeros is such a program. No public report of this one was
found.
"""

import jax
import jax.numpy as jnp


@jax.jit
def program(x: jax.Array) -> jax.Array:
    """The sums of the rows of a product, `[64]` from `[64, 64]`."""
    return jnp.sum(x @ jnp.ones((64, 64)), axis=1)


if __name__ == "__main__":
    print(int(jnp.sum(program(jnp.ones((64, 64))) == 64 * 64)))
