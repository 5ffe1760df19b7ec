"""The discrete cosine transform in chunks: neighbours that vary together, in few waves.

Ahmed, Natarajan and Rao, "Discrete cosine transform", 1974; as a stage before top-k:
Peng, Quesnelle and Kingma, "DeMo: decoupled momentum optimization", 2024, where chunks
are tiles of a matrix. Here they are runs of the raveled leaf.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp import checks
from fedjax_comp.base import Compressor, Context
from fedjax_comp.compress.combine.leafwise import ArrayCode, leafwise


def dct_matrix(size: int) -> np.ndarray:
    """The orthonormal DCT-II, float32 `[size, size]`: row `f` is the wave of `f`.

        D[f, t] = sqrt((1 + [f > 0]) / size) cos(pi (2 t + 1) f / (2 size))

    >>> [[round(float(x), 3) for x in row] for row in dct_matrix(2)]
    [[0.707, 0.707], [0.707, -0.707]]
    """
    wave, place = np.arange(size)[:, None], np.arange(size)[None, :]
    scale = np.sqrt((1.0 + (wave > 0)) / size)
    angle = math.pi * (2 * place + 1) * wave / (2 * size)
    return (scale * np.cos(angle)).astype(np.float32)


def chunked_dct(x: jax.Array, chunk: int, *, inverse: bool = False) -> jax.Array:
    """The DCT of each run of `chunk` coordinates; what is left over has its own.

    Args:
      x: float32 `[n]`.
      chunk: length of a run; the last one has `n mod chunk` coordinates.
      inverse: whether to undo the transform.

    Returns:
      float32 `[n]` of the same norm.

    >>> import jax.numpy as jnp
    >>> waves = chunked_dct(jnp.ones(6), 4)
    >>> [round(float(wave), 3) for wave in waves[0::4]]  # 2 and sqrt(2)
    [2.0, 1.414]
    """

    def apply(part: jax.Array) -> jax.Array:
        matrix = dct_matrix(part.shape[1])
        right = matrix if inverse else matrix.T
        product = jnp.matmul(part, right, precision=jax.lax.Precision.HIGHEST)
        return product.reshape(-1)

    whole = x.shape[0] // chunk * chunk
    parts = [x[:whole].reshape(-1, chunk), x[whole:].reshape(1, -1)]
    return jnp.concatenate([apply(part) for part in parts if part.size > 0])


def dct(chunk: int = 64) -> Compressor:
    """Transforms every leaf by an orthonormal cosine transform, chunk by chunk.

    It loses and saves nothing by itself: put a sparsifier such as `chunk_top_k` behind
    it. What it sends is open, `[n]` numbers for `n`, and needs no key. Linear.

    Args:
      chunk: coordinates in a chunk, in `[1, 4096]`.

    Returns:
      A stateless `Compressor` with `decode(encode(x)) = x` up to rounding.

    Raises:
      ValueError: when `chunk` is not as above.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> context = make_context(jax.random.key(0), 0)
      >>> payload, _ = dct(4).encode(context, jnp.ones(4), ())
      >>> jnp.abs(jnp.round(payload.parts[0], 4)).tolist()
      [2.0, 0.0, 0.0, 0.0]
    """
    chunk = checks.integer("chunk", chunk, minimum=1, maximum=4096)

    def encode(context: Context, x: jax.Array) -> jax.Array:
        del context
        vector = x.reshape(-1).astype(jnp.float32)
        return chunked_dct(vector, chunk).astype(x.dtype)

    def decode(
        context: Context, payload: jax.Array, like: jax.ShapeDtypeStruct
    ) -> jax.Array:
        del context
        x = chunked_dct(payload.astype(jnp.float32), chunk, inverse=True)
        return x.reshape(like.shape).astype(like.dtype)

    return leafwise(ArrayCode("dct", encode, decode, linear=True))
