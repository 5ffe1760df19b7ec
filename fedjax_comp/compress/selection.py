"""Which `k` of `n`: the largest, or a keyed choice that both ends can draw.

Neither sorts. The largest are found by radix selection on the bits of the magnitudes,
then ranked and gathered through words of 32 marks; a keyed choice costs `O(k)` and is
a Feistel permutation of the positions (Black and Rogaway, "Ciphers with arbitrary
finite domains", 2002: cycle walking), shifted at random.
"""

import jax
import jax.numpy as jnp
import numpy as np

_DIGITS = ((20, 11), (10, 10), (0, 10))  # (shift, width): the 31 bits of a magnitude


def kth_largest(keys: jax.Array, k: jax.typing.ArrayLike) -> jax.Array:
    """The `k`-th largest of unsigned integers below `2**31`, by radix selection.

    Args:
      keys: uint32 `[n]`, all below `2**31`.
      k: in `[1, n]`, may be traced.

    Returns:
      The largest `t` of which `count(keys >= t) >= k`, uint32 scalar.

    >>> import jax.numpy as jnp
    >>> int(kth_largest(jnp.array([5, 9, 9, 1], jnp.uint32), 3))
    5
    """
    rank = jnp.asarray(k, jnp.int32)
    found = jnp.zeros((), jnp.uint32)
    for shift, width in _DIGITS:
        above = shift + width
        digit = (keys >> shift) & jnp.uint32((1 << width) - 1)
        live = (keys >> above) == (found >> above)
        # Positions outside the histogram are dropped by the scatter.
        slot = jnp.where(live, digit, jnp.uint32(1 << width))
        counts = jnp.zeros(1 << width, jnp.int32).at[slot].add(1, mode="drop")
        at_least = jnp.cumsum(counts[::-1])[::-1]
        best = jnp.sum(at_least >= rank, dtype=jnp.int32) - 1
        rank = rank - (at_least[best] - counts[best])
        found = found | (best.astype(jnp.uint32) << shift)
    return found


def pack_marks(marks: jax.Array) -> jax.Array:
    """Packs bools `[n]` into uint32 words `[ceil(n / 32)]`, first mark lowest."""
    n = marks.shape[0]
    rows = jnp.pad(marks, (0, -n % 32)).reshape(-1, 32)
    weights = np.uint32(1) << np.arange(32, dtype=np.uint32)
    return jnp.sum(
        jnp.where(rows, weights[None, :], jnp.uint32(0)), axis=1, dtype=jnp.uint32
    )


def positions_of(words: jax.Array, ranks: jax.Array) -> jax.Array:
    """Where the marks of the given ranks are: the inverse of counting marks.

    Args:
      words: uint32, marks packed by `pack_marks`.
      ranks: int32 `[k]`, 0 for the first mark; below the number of marks.

    Returns:
      Positions, uint32 `[k]`.

    >>> import jax.numpy as jnp
    >>> words = pack_marks(jnp.array([False, True, False, True]))
    >>> positions_of(words, jnp.array([0, 1], jnp.int32)).tolist()
    [1, 3]
    """
    counts = jax.lax.population_count(words).astype(jnp.int32)
    up_to = jnp.cumsum(counts)
    index = jnp.searchsorted(up_to, ranks, side="right").astype(jnp.int32)
    index = jnp.minimum(index, words.shape[0] - 1)
    word = words[index]
    rank = ranks - (up_to[index] - counts[index])
    bit = jnp.zeros_like(rank)
    for half in (16, 8, 4, 2, 1):
        low_half = word & jnp.uint32((1 << half) - 1)
        low = jax.lax.population_count(low_half).astype(jnp.int32)
        is_high = rank >= low
        rank = jnp.where(is_high, rank - low, rank)
        bit = jnp.where(is_high, bit + half, bit)
        word = jnp.where(is_high, word >> half, word)
    return index.astype(jnp.uint32) * 32 + bit.astype(jnp.uint32)


def largest_indices(x: jax.Array, k: int) -> jax.Array:
    """Where the `k` largest magnitudes of a vector are; of equal ones, the first.

    Magnitudes are compared as the bits of a float32, which orders them, infinity above
    every number and NaN above infinity.

    Args:
      x: float `[n]`, `n >= 1`.
      k: in `[1, n]`, static.

    Returns:
      `k` distinct positions in ascending order, uint32 `[k]`.

    >>> import jax.numpy as jnp
    >>> largest_indices(jnp.array([1.0, -3, 2, 3, 3]), 2).tolist()
    [1, 3]
    """
    if k == x.shape[0]:
        return jnp.arange(k, dtype=jnp.uint32)
    keys = jax.lax.bitcast_convert_type(jnp.abs(x.astype(jnp.float32)), jnp.uint32)
    threshold = kth_largest(keys, k)
    above = pack_marks(keys > threshold)
    ties = pack_marks(keys == threshold)
    num_above = jnp.sum(jax.lax.population_count(above), dtype=jnp.uint32)
    last = positions_of(ties, (k - num_above.astype(jnp.int32) - 1)[None])[0]
    # Of the last tie's word the marks up to it stay, of the words after it none.
    word = jnp.arange(ties.shape[0], dtype=jnp.uint32)
    up_to_last = jnp.uint32(0xFFFFFFFF) >> (31 - last % 32)
    allowed = jnp.where(
        word == last // 32,
        up_to_last,
        jnp.where(word < last // 32, jnp.uint32(0xFFFFFFFF), jnp.uint32(0)),
    )
    return positions_of(above | (ties & allowed), jnp.arange(k, dtype=jnp.int32))


def _mix(h: jax.Array) -> jax.Array:
    """The finalizer of MurmurHash3: every bit of the result depends on all of `h`."""
    h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
    return h ^ (h >> 16)


def random_indices(key: jax.Array, n: int, k: int) -> jax.Array:
    """`k` distinct positions out of `n`, each position with probability `k / n`.

    A keyed permutation of `[0, n)` is evaluated at `0..k-1` and all of its values are
    shifted by one uniform number modulo `n`. The shift alone makes every position
    equally likely, whatever the permutation's quality; the permutation makes the
    choices of several positions look independent.

    Args:
      key: scalar key array.
      n: number of positions, `1 <= n < 2**31`.
      k: in `[1, n]`.

    Returns:
      Positions in no order, uint32 `[k]`.

    >>> import jax
    >>> sorted(random_indices(jax.random.key(0), 5, 5).tolist())
    [0, 1, 2, 3, 4]
    """
    key_rounds, key_shift = jax.random.split(key)
    num_bits = max(n - 1, 1).bit_length()
    low_bits = num_bits // 2
    low_mask = jnp.uint32((1 << low_bits) - 1)
    high_mask = jnp.uint32((1 << (num_bits - low_bits)) - 1)
    round_keys = jax.random.bits(key_rounds, (6,), jnp.uint32)

    def permute(i: jax.Array) -> jax.Array:
        low, high = i & low_mask, i >> low_bits
        for r in range(0, 6, 2):
            low = low ^ (_mix(high + round_keys[r]) & low_mask)
            high = high ^ (_mix(low + round_keys[r + 1]) & high_mask)
        return (high << low_bits) | low

    # A walk starts inside [0, n), so its cycle leads back inside; the domain is less
    # than 2n, so that a walk takes two steps on average.
    positions = jax.lax.while_loop(
        lambda i: jnp.any(i >= n),
        lambda i: jnp.where(i >= n, permute(i), i),
        permute(jnp.arange(k, dtype=jnp.uint32)),
    )
    shift = jax.random.randint(key_shift, (), 0, n, jnp.int32).astype(jnp.uint32)
    return (positions + shift) % jnp.uint32(n)


def num_kept(n: int, *, fraction: float | None, k: int | None) -> int:
    """How many of `n` are kept: at least one, at most all.

    >>> num_kept(1000, fraction=0.01, k=None), num_kept(3, fraction=0.01, k=None)
    (10, 1)
    >>> num_kept(3, fraction=None, k=5)
    3
    """
    if k is None:
        k = round((fraction or 0.0) * n)
    return min(n, max(1, k))
