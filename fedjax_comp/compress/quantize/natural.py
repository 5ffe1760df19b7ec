"""Numbers rounded at random to powers of two: natural compression and dithering.

Horváth, Ho, Horváth, Sahu, Canini and Richtárik, "Natural compression for distributed
deep learning", 2019 (2022): natural_compression is their definition 1 with theorem 1
(`omega = 1/8`), natural_dithering their definition 2. nuqsgd: Ramezani-Kebrya,
Faghri, Markov, Aksenov, Alistarh and Roy, "NUQSGD: provably communication-efficient
data-parallel SGD via nonuniform quantization", 2021, which is the same quantizer.
"""

import jax
import jax.numpy as jnp

from fedjax_comp import checks
from fedjax_comp.base import Compressor, Context
from fedjax_comp.compress import noise
from fedjax_comp.compress.combine.leafwise import ArrayCode, leafwise
from fedjax_comp.compress.magnitude import euclidean_norm, in_units
from fedjax_comp.compress.quantize.scalar import Quantized, symbols_of, zigzag
from fedjax_comp.wire.fields import Raw, Symbols

_MANTISSA_BITS = 23
_INFINITE = 255  # the exponent of infinities and NaN


def stochastic_exponent(key: jax.Array, x: jax.Array) -> jax.Array:
    """Sign and exponent of each number, rounded at random to a power of two.

        2^floor(log2 |x|) (1 + Bernoulli(|x| / 2^floor(log2 |x|) - 1))

    is what adding 23 random bits to the mantissa of a float32 and dropping it makes.

    Args:
      key: scalar key array.
      x: float32 of any shape.

    Returns:
      The upper 9 bits of the float32 of that power, uint32.

    >>> bits = stochastic_exponent(jax.random.key(0), jnp.array([1.0, -4.0]))
    >>> [(int(b) >> 8, int(b) % 256 - 127) for b in bits]  # sign and exponent
    [(0, 0), (1, 2)]
    """
    words = jax.lax.bitcast_convert_type(x, jnp.uint32)
    scale = 1 << _MANTISSA_BITS
    dither = (noise.uniform(key, x.shape) * scale).astype(jnp.uint32)
    rounded = (words + dither) >> _MANTISSA_BITS
    # The largest power of two stays what it is: above it there is only infinity. What
    # is not a number must not be carried over into the sign.
    own = words >> _MANTISSA_BITS
    return jnp.where((own & 0xFF) >= _INFINITE - 1, own, rounded)


def natural_compression() -> Compressor:
    """Each coordinate as a sign and a power of two: nine bits, no scale.

        C(x) = sign(x) 2^e (1 + Bernoulli(|x| / 2^e - 1)),   e = floor(log2 |x|).

    Unbiased with `E||C(x) - x||^2 <= 1/8 ||x||^2`, up to magnitudes of `2**127`. The
    symbols are skewed: `entropy_coded` makes about half of the nine bits of them.

    Returns:
      A stateless `Compressor` that closes the symbols.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> context = make_context(jax.random.key(0), 0)
      >>> natural = natural_compression()
      >>> payload, _ = natural.encode(context, jnp.array([0.5, -2.0, 0.0]), ())
      >>> natural.decode(context, payload, ())[0]
      Array([ 0.5, -2. ,  0. ], dtype=float32)
    """

    def encode(context: Context, x: jax.Array) -> Symbols:
        words = stochastic_exponent(context.client_key, x.astype(jnp.float32))
        return Symbols(words.astype(jnp.uint16), 512)

    def decode(
        context: Context, payload: Symbols, like: jax.ShapeDtypeStruct
    ) -> jax.Array:
        del context
        words = payload.values.astype(jnp.uint32) << _MANTISSA_BITS
        return jax.lax.bitcast_convert_type(words, jnp.float32).astype(like.dtype)

    return leafwise(ArrayCode("natural_compression", encode, decode))


def natural_dithering(levels: int) -> Compressor:
    """Magnitudes rounded at random to `||x||` times 1, 1/2, ..., `2^(1 - s)` or 0.

        C(x) = ||x|| sign(x) Q(|x| / ||x||),   E Q(t) = t,   s = levels.

    Unbiased with `E||C(x) - x||^2 <= (1/8 + min(sqrt(n) l, n l^2 / 4)) ||x||^2`, `l`
    being the smallest level `2^(1 - s)`: between two powers of two the variance is at
    most `t^2 / 8`, and below `l` it is `t (l - t)`. Few levels thus reach as far down
    as many of `qsgd`. Sign and level are one symbol of `2 s + 1`; 0 for zero, then the
    levels from below, negative ones first.

    Args:
      levels: `s`, from 1 to 126.

    Returns:
      A stateless `Compressor` that closes the norm and the symbols.

    Raises:
      ValueError: when `levels` is not as above.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> context = make_context(jax.random.key(0), 0)
      >>> dithering = natural_dithering(levels=3)
      >>> payload, _ = dithering.encode(context, jnp.array([0.0, -4.0]), ())
      >>> payload.parts[0].symbols.values.tolist()
      [0, 5]
      >>> dithering.decode(context, payload, ())[0]
      Array([ 0., -4.], dtype=float32)
    """
    s = checks.integer("levels", levels, minimum=1, maximum=126)
    lowest = 2.0 ** (1 - s)

    def encode(context: Context, x: jax.Array) -> Quantized:
        x = x.astype(jnp.float32)
        unit, power = in_units(x)
        norm = euclidean_norm(unit)
        t = jnp.minimum(jnp.abs(unit) / jnp.where(norm == 0, 1.0, norm), 1.0)
        # The exponent of a level, counted from 0 at the lowest; -1 is below all.
        e = jnp.maximum(jnp.floor(jnp.log2(jnp.maximum(t / lowest, 0.5))), -1.0)
        # log2 may be off by one unit in its last place, so at a power of two by one.
        e += (t >= lowest * jnp.exp2(e + 1)).astype(jnp.float32)
        e -= ((e >= 0) & (t < lowest * jnp.exp2(e))).astype(jnp.float32)
        base = jnp.where(e < 0, 0.0, lowest * jnp.exp2(e))
        width = jnp.where(e < 0, lowest, base)
        up = noise.uniform(context.client_key, x.shape) * width < t - base
        level = e + 1.0 + up.astype(jnp.float32)
        return Quantized(Raw(norm * power), symbols_of(zigzag(x, level), 2 * s + 1))

    def decode(
        context: Context, payload: Quantized, like: jax.ShapeDtypeStruct
    ) -> jax.Array:
        del context
        numbers = payload.symbols.values.astype(jnp.int32)
        level = (numbers + 1) // 2
        size = jnp.where(level == 0, 0.0, jnp.exp2((level - s).astype(jnp.float32)))
        signed = jnp.where(numbers % 2 == 1, -size, size)
        return (payload.scale.values * signed).astype(like.dtype)

    return leafwise(ArrayCode("natural_dithering", encode, decode))


def nuqsgd(levels: int) -> Compressor:
    """NUQSGD: the levels 0, `2^-s`, ..., 1/2, 1 of `||x||`.

    It is `natural_dithering(s + 1)`: the two papers count the same levels differently.
    Unbiased with `E||C(x) - x||^2 <= (1/8 + min(sqrt(n) 2^-s, n 4^-(s+1))) ||x||^2`.

    Args:
      levels: `s`, from 1 to 125.

    Returns:
      A stateless `Compressor` that closes the norm and the symbols.

    Raises:
      ValueError: when `levels` is not as above.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> context = make_context(jax.random.key(0), 0)
      >>> payload, _ = nuqsgd(levels=2).encode(context, jnp.array([0.0, -4.0]), ())
      >>> nuqsgd(levels=2).decode(context, payload, ())[0]
      Array([ 0., -4.], dtype=float32)
    """
    return natural_dithering(
        checks.integer("levels", levels, minimum=1, maximum=125) + 1
    )
