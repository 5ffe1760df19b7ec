"""Count sketches: a table of signed sums that all of a cohort can share.

Charikar, Chen and Farach-Colton, "Finding frequent items in data streams", 2002; of
updates: Rothchild et al., "FetchSGD: communication-efficient federated learning with
sketching", 2020.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedjax_comp import checks
from fedjax_comp.base import Compressor, Context
from fedjax_comp.compress import noise
from fedjax_comp.compress.combine.leafwise import ArrayCode, leafwise


def _hashes(key: jax.Array, n: int, columns: int) -> tuple[jax.Array, jax.Array]:
    """A column and a sign for each of `n` coordinates: uint32 and float32 `[n]`."""
    words = noise.counter_bits(key, (n,))
    # The bias of the remainder is below columns / 2**31, far below a sketch's noise.
    column = (words >> 1) % jnp.uint32(columns)
    return column, 1.0 - 2.0 * (words & 1).astype(jnp.float32)


def sketch(key: jax.Array, x: jax.Array, *, rows: int, columns: int) -> jax.Array:
    """The count sketch of a vector; linear in it.

        S[r, c] = sum_{i : h_r(i) = c} s_r(i) x_i,   s_r(i) a random sign.

    Args:
      key: scalar key array; it says what `h` and `s` are.
      x: float `[n]`.
      rows: independent hashes.
      columns: sums in a row.

    Returns:
      float32 `[rows, columns]`.

    >>> import jax, jax.numpy as jnp
    >>> key, x = jax.random.key(0), jnp.array([0.0, 0.0, -7.0])
    >>> jnp.sum(jnp.abs(sketch(key, x, rows=2, columns=5)), axis=1).tolist()
    [7.0, 7.0]
    """

    def one_row(row_key: jax.Array) -> jax.Array:
        column, sign = _hashes(row_key, x.shape[0], columns)
        return (
            jnp.zeros(columns, jnp.float32).at[column].add(sign * x.astype(jnp.float32))
        )

    # One row after another: all rows' hashes would be `rows` times the vector.
    return jax.lax.map(one_row, jax.random.split(key, rows))


def mean_of_rows(estimates: jax.Array) -> jax.Array:
    """`[rows, n] -> [n]`: unbiased and linear, with the noise of heavy coordinates."""
    return jnp.mean(estimates, axis=0)


def median_of_rows(estimates: jax.Array) -> jax.Array:
    """`[rows, n] -> [n]`: what finds heavy coordinates; not linear."""
    return jnp.median(estimates, axis=0)


def unsketch(
    key: jax.Array,
    table: jax.Array,
    n: int,
    *,
    combine: Callable[[jax.Array], jax.Array] = median_of_rows,
) -> jax.Array:
    """Estimates the vector of which a table is the sketch.

        x_i ~ combine_r s_r(i) S[r, h_r(i)]

    Args:
      key: the one it was sketched with.
      table: float32 `[rows, columns]`.
      n: coordinates of the vector.
      combine: `[rows, n] -> [n]`, `median_of_rows` or `mean_of_rows`.

    Returns:
      float32 `[n]`.

    >>> import jax, jax.numpy as jnp
    >>> key, x = jax.random.key(0), jnp.array([0.0, 0.0, -7.0])
    >>> float(unsketch(key, sketch(key, x, rows=3, columns=50), 3)[2])
    -7.0
    """

    def one_row(row: tuple[jax.Array, jax.Array]) -> jax.Array:
        row_key, sums = row
        column, sign = _hashes(row_key, n, table.shape[1])
        return sign * sums[column]

    keys = jax.random.split(key, table.shape[0])
    return combine(jax.lax.map(one_row, (keys, table)))


def count_sketch(*, rows: int, columns: int) -> Compressor:
    """Sends the count sketch of every leaf and estimates it by the mean over rows.

    Linear, and unbiased over the round's key with

        E||C(x) - x||^2 = (n - 1) / (rows * columns) ||x||^2.

    The whole cohort uses the same hashes, so messages can be added before they are
    decoded (`fedjax_comp.compress.linear`), but the noise does not average out over the
    cohort. A leaf no larger than its sketch is left open and exact: put `flattened`
    around `count_sketch` for one sketch of all leaves. The sums stay open.

    Args:
      rows: independent hashes, at least 1.
      columns: sums in a row, at least 1.

    Returns:
      A stateless `Compressor`.

    Raises:
      ValueError: when an argument is not as above.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> context = make_context(jax.random.key(0), 0)
      >>> small = count_sketch(rows=1, columns=20)
      >>> x = jnp.zeros(100).at[7].set(3.0)
      >>> payload, _ = small.encode(context, x, ())
      >>> payload.parts[0].shape
      (1, 20)
      >>> float(small.decode(context, payload, ())[0][7])
      3.0
    """
    rows = checks.integer("rows", rows, minimum=1)
    columns = checks.integer("columns", columns, minimum=1, maximum=1 << 30)

    def accepts(like: jax.ShapeDtypeStruct) -> bool:
        return rows * columns < math.prod(like.shape)

    def encode(context: Context, x: jax.Array) -> jax.Array:
        table = sketch(context.round_key, x.reshape(-1), rows=rows, columns=columns)
        return table.astype(x.dtype)

    def decode(
        context: Context, payload: jax.Array, like: jax.ShapeDtypeStruct
    ) -> jax.Array:
        table = payload.astype(jnp.float32)
        x = unsketch(
            context.round_key, table, math.prod(like.shape), combine=mean_of_rows
        )
        return x.reshape(like.shape).astype(like.dtype)

    return leafwise(ArrayCode("count_sketch", encode, decode, accepts, linear=True))
