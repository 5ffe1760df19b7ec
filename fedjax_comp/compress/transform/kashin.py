"""Kashin's representation: more coordinates, none of them large.

Lyubarskii and Vershynin, "Uncertainty principles and vector quantization", 2010,
section 3, algorithm of theorem 3.5. For mean estimation: Safaryan, Shulgin and
Richtárik, "Uncertainty principle for communication compression in distributed and
federated learning and the search for an optimal compressor", 2020.
"""

import math

import jax
import jax.numpy as jnp

from fedjax_comp import checks
from fedjax_comp.base import Compressor, Context
from fedjax_comp.compress.combine.leafwise import ArrayCode, leafwise
from fedjax_comp.compress.magnitude import in_units, standardized
from fedjax_comp.compress.sparsify.selection import random_indices
from fedjax_comp.compress.transform.rotate import rotation


def analysis(key: jax.Array, x: jax.Array, length: int) -> jax.Array:
    """The coefficients `U^T x` in a random tight frame, of the same norm as `x`.

    `U` is `n` columns of a random orthogonal matrix, so that `U U^T = 1`. Which ones
    is random too: the first ones of a Hadamard matrix repeat themselves.

    Args:
      key: scalar key array, the same at both ends.
      x: float32 `[n]`.
      length: `N >= n`.

    Returns:
      float32 `[N]` of the same norm.
    """
    place_key, rotation_key = jax.random.split(key)
    places = random_indices(place_key, length, x.shape[0])
    wide = jnp.zeros(length, jnp.float32).at[places].set(x, unique_indices=True)
    return rotation(rotation_key, wide)


def synthesis(key: jax.Array, a: jax.Array, n: int) -> jax.Array:
    """The vector `U a` of coefficients `a`: float32 `[N]` to `[n]`.

    >>> x = jnp.array([1.0, 2.0, 3.0])
    >>> a = analysis(jax.random.key(0), x, 5)
    >>> synthesis(jax.random.key(0), a, 3).round(4)
    Array([1., 2., 3.], dtype=float32)
    """
    place_key, rotation_key = jax.random.split(key)
    wide = rotation(rotation_key, a, inverse=True)
    return wide[random_indices(place_key, a.shape[0], n)]


def kashin_coefficients(
    key: jax.Array, x: jax.Array, *, length: int, iterations: int, clip: float
) -> jax.Array:
    """Coefficients `a` with `U a = x` of which the largest is small.

        b = U^T r;  a += clip(b, +-M);  r -= U clip(b, +-M);  M = clip ||r|| / sqrt(N)

    from `r = x`, and what is left after all iterations is added unclipped.

    Args:
      key: scalar key array, the same at both ends.
      x: float32 `[n]`.
      length: `N >= n`.
      iterations: with clipping; 0 gives `U^T x`.
      clip: in units of the coefficients' root mean square.

    Returns:
      float32 `[N]`.
    """

    def step(_: int, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        a, rest = carry
        bound = clip * math.sqrt(x.size / length) * standardized(rest)[1]
        part = jnp.clip(analysis(key, rest, length), -bound, bound)
        return a + part, rest - synthesis(key, part, x.shape[0])

    start = (jnp.zeros(length, jnp.float32), x)
    a, rest = jax.lax.fori_loop(0, iterations, step, start)
    return a + analysis(key, rest, length)


def kashin(
    *, redundancy: float = 2.0, iterations: int = 12, clip: float = 1.0
) -> Compressor:
    """Spreads every leaf over `redundancy` times as many coordinates of like size.

    A rotation leaves Gaussian coordinates, of which the largest of `n` is about
    `sqrt(2 ln n)` standard deviations. Kashin's coefficients have a largest one that
    does not grow with `n`: about 1.75 times their root mean square at a redundancy of
    2, 2.0 at 1.5. Decoding also removes the part of a quantizer's error that lies
    outside of the frame's range: all but `1 / redundancy` of it where it is noise. The
    price is `redundancy` times as many coordinates, which pays in front of one bit a
    coordinate, not of four:

        flattened(chain(kashin(), stochastic_quantize(levels=2)))

    What it sends is open, `[N]` numbers for `n`, `N = ceil(redundancy n)`.

    Args:
      redundancy: in (1, 16].
      iterations: each costs two rotations of `N` coordinates, at the sender only.
      clip: where coefficients are clipped, in root mean squares.

    Returns:
      A stateless, linear `Compressor` with `decode(encode(x)) = x` up to rounding.

    Raises:
      ValueError: when an argument is out of its range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> context = make_context(jax.random.key(0), 0)
      >>> spread = kashin()
      >>> payload, _ = spread.encode(context, jnp.array([4.0, 0, 0, 0]), ())
      >>> payload.parts[0].shape
      (8,)
      >>> spread.decode(context, payload, ())[0].round(4) + 0
      Array([4., 0., 0., 0.], dtype=float32)
    """
    redundancy = checks.between("redundancy", redundancy, above=1, at_most=16)
    iterations = checks.integer("iterations", iterations, minimum=0, maximum=1000)
    clip = checks.between("clip", clip, above=0, at_most=100)

    def encode(context: Context, x: jax.Array) -> jax.Array:
        # In units: what underflows is lost once, not in each of the iterations' sums.
        unit, power = in_units(x.reshape(-1).astype(jnp.float32))
        coefficients = kashin_coefficients(
            context.round_key,
            unit,
            length=math.ceil(redundancy * x.size),
            iterations=iterations,
            clip=clip,
        )
        return (power * coefficients).astype(x.dtype)

    def decode(
        context: Context, payload: jax.Array, like: jax.ShapeDtypeStruct
    ) -> jax.Array:
        n = math.prod(like.shape)
        x = synthesis(context.round_key, payload.astype(jnp.float32), n)
        return x.reshape(like.shape).astype(like.dtype)

    return leafwise(ArrayCode("kashin", encode, decode, linear=True))
