"""TernGrad: a leaf in the three numbers -s, 0 and s.

Wen, Xu, Yan, Wu, Wang, Chen and Li, "TernGrad: ternary gradients to reduce
communication in distributed deep learning", 2017, eq. 1 and 3, clipping in section 4.
"""

import jax
import jax.numpy as jnp

from fedjax_comp import checks
from fedjax_comp.base import Compressor, Context
from fedjax_comp.compress import noise
from fedjax_comp.compress.combine.leafwise import ArrayCode, leafwise
from fedjax_comp.compress.magnitude import in_units
from fedjax_comp.compress.quantize.scalar import Quantized, symbols_of
from fedjax_comp.wire.fields import Raw


def terngrad(*, clip: float | None = None) -> Compressor:
    """Each coordinate as its sign times the largest magnitude, or as 0, at random.

        C(x) = s sign(x) Bernoulli(|x| / s),   s = max |x|.

    Unbiased with `E||C(x) - x||^2 = s ||x||_1 - ||x||^2 <= (sqrt(n) - 1)/2 ||x||^2`.
    Three symbols, numbered 0, -1, 1, cost two bits, or little more than their entropy
    under `entropy_coded`.

    Args:
      clip: the largest magnitude, in root mean squares of a leaf (its standard
        deviation about 0); 2.5 in the paper. Larger numbers are clipped to it first:
        less variance, but no longer unbiased. None: no clipping.

    Returns:
      A stateless `Compressor` that closes the scale and the symbols.

    Raises:
      ValueError: when `clip` is not in (0, 1000].

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> context = make_context(jax.random.key(0), 0)
      >>> payload, _ = terngrad().encode(context, jnp.array([-2.0, 0.0, 2.0]), ())
      >>> terngrad().decode(context, payload, ())[0]
      Array([-2.,  0.,  2.], dtype=float32)
    """
    if clip is not None:
        clip = checks.between("clip", clip, above=0, at_most=1000)

    def encode(context: Context, x: jax.Array) -> Quantized:
        x, power = in_units(x.astype(jnp.float32))
        if clip is not None:
            bound = clip * jnp.sqrt(jnp.mean(jnp.square(x)))
            x = jnp.clip(x, -bound, bound)
        s = jnp.max(jnp.abs(x))
        kept = noise.bernoulli_round(
            context.client_key,
            jnp.minimum(jnp.abs(x) / jnp.where(s == 0, 1.0, s), 1.0),
        )
        zigzag = kept * jnp.where(x < 0, 1.0, 2.0)
        return Quantized(Raw(s * power), symbols_of(zigzag, 3))

    def decode(
        context: Context, payload: Quantized, like: jax.ShapeDtypeStruct
    ) -> jax.Array:
        del context
        symbol = payload.symbols.values
        signs = (symbol == 2).astype(jnp.float32) - (symbol == 1).astype(jnp.float32)
        return (payload.scale.values * signs).astype(like.dtype)

    return leafwise(ArrayCode("terngrad", encode, decode))
