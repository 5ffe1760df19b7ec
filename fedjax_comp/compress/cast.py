"""Numbers in fewer bits by their dtype alone."""

import jax
import jax.numpy as jnp

from fedjax_comp.base import Compressor, Context
from fedjax_comp.compress.leafwise import ArrayCode, leafwise
from fedjax_comp.wire.fields import Raw


def to_dtype(dtype: jax.typing.DTypeLike) -> Compressor:
    """Rounds every open leaf to a float dtype and closes it.

    The error of a coordinate in the dtype's range is at most `2**-p` of it, `p` the
    significant bits (8 for bfloat16, 11 for float16). float16 overflows above 65504.

    Args:
      dtype: of the numbers on the wire, e.g. `"bfloat16"`.

    Returns:
      A stateless `Compressor`; what it decodes has the dtype that was encoded.

    Raises:
      ValueError: when `dtype` is not a float dtype.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> context = make_context(jax.random.key(0), 0)
      >>> payload, _ = to_dtype("bfloat16").encode(context, jnp.array([1.001]), ())
      >>> payload.parts[0].values.dtype.name
      'bfloat16'
      >>> to_dtype("bfloat16").decode(context, payload, ())[0]
      Array([1.], dtype=float32)
    """
    try:
        wire_dtype = jnp.dtype(dtype)
    except TypeError:
        raise ValueError(f"Expected dtype={dtype!r}, a float dtype's name.") from None
    if not jnp.issubdtype(wire_dtype, jnp.floating):
        raise ValueError(f"Expected dtype={dtype!r}, a float dtype's name.")

    def encode(context: Context, x: jax.Array) -> Raw:
        del context
        return Raw(x.astype(wire_dtype))

    def decode(context: Context, payload: Raw, like: jax.ShapeDtypeStruct) -> jax.Array:
        del context
        return payload.values.astype(like.dtype)

    return leafwise(ArrayCode("to_dtype", encode, decode))
