"""Which `k` of `n`: the largest, or a keyed choice that both ends can draw.

Neither sorts. The largest are found by radix selection on the bits of the magnitudes,
then ranked and gathered through words of 32 marks. In a long vector, a sample first
gives a threshold that a few more than `k` magnitudes reach, and only these are searched
(Floyd and Rivest, "Expected time bounds for selection", 1975); if the sample misleads,
all are. On a TPU, where a histogram's scatter goes number by number and a sum over a
vector costs one reading of it, digits are found by counting instead, without a sample;
the result is the same to the bit. A keyed choice costs
`O(k)` and is a Feistel permutation of the positions (Black and Rogaway, "Ciphers with
arbitrary finite domains", 2002: cycle walking), shifted at random.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp.compress.noise import mix

MAX_PLACES = 2**31 - 1
"""Of a leaf: places are int32."""

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
    return jax.lax.platform_dependent(
        keys, rank, tpu=_kth_by_counting, default=_kth_by_histograms
    )


def _kth_by_histograms(keys: jax.Array, rank: jax.Array) -> jax.Array:
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


def _kth_by_counting(keys: jax.Array, rank: jax.Array) -> jax.Array:
    """Four bits of the threshold at a time: how many keys reach each of 15 guesses."""

    def settle(place: jax.Array, found: jax.Array) -> jax.Array:
        shift = (28 - 4 * place).astype(jnp.uint32)
        guesses = found + (jnp.arange(1, 16, dtype=jnp.uint32) << shift)
        reached = keys[None, :] >= guesses[:, None]
        enough = jnp.sum(reached, axis=1, dtype=jnp.int32) >= rank
        return found + (jnp.sum(enough, dtype=jnp.uint32) << shift)

    # A zero that `shard_map` knows to differ over devices where the keys do.
    start = jnp.sum(keys[:0], dtype=jnp.uint32)
    return jax.lax.fori_loop(0, 8, settle, start)


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


def _magnitude_keys(x: jax.Array, turn: jax.typing.ArrayLike = 0) -> jax.Array:
    bits = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)
    return (bits ^ jnp.asarray(turn, jnp.uint32)) & jnp.uint32(0x7FFFFFFF)


def _exact_marks(keys: jax.Array, k: jax.typing.ArrayLike) -> jax.Array:
    """Marks of the `k` largest keys, packed; of equal ones, the first."""
    threshold = kth_largest(keys, k)
    above = pack_marks(keys > threshold)
    ties = pack_marks(keys == threshold)
    num_above = jnp.sum(jax.lax.population_count(above), dtype=jnp.uint32)
    rank = jnp.asarray(k, jnp.int32) - num_above.astype(jnp.int32) - 1
    last = positions_of(ties, rank[None])[0]
    # Of the last tie's word the marks up to it stay, of the words after it none.
    word = jnp.arange(ties.shape[0], dtype=jnp.uint32)
    up_to_last = jnp.uint32(0xFFFFFFFF) >> (31 - last % 32)
    allowed = jnp.where(
        word == last // 32,
        up_to_last,
        jnp.where(word < last // 32, jnp.uint32(0xFFFFFFFF), jnp.uint32(0)),
    )
    return above | (ties & allowed)


def _ranks(k: int) -> jax.Array:
    return jnp.arange(k, dtype=jnp.int32)


def _num_marks(words: jax.Array) -> jax.Array:
    return jnp.sum(jax.lax.population_count(words), dtype=jnp.int32)


_MAX_SAMPLE = 1 << 18
_MIN_SAMPLE = 1 << 12


def sample_size(n: int) -> int:
    """How many of `n` are looked at first; 0 where looking at all costs as little.

    >>> [sample_size(n) for n in (1000, 1 << 16, 1 << 24)]
    [0, 8192, 262144]
    """
    size = min(_MAX_SAMPLE, n // 8)
    return size if size >= _MIN_SAMPLE else 0


def _sample(keys: jax.Array, size: int) -> jax.Array:
    """One key of every stretch of `n // size`, at a place in it that a hash tells."""
    stretch = keys.shape[0] // size
    index = jnp.arange(size, dtype=jnp.uint32)
    return keys[index * stretch + mix(index) % stretch]


def _sample_rank(n: int, k: int, deviations: float) -> int:
    """The rank in a sample above which, in `n`, are `k`, so many deviations off."""
    size = sample_size(n)
    mean = size * k / n
    rank = mean + deviations * math.sqrt(mean * (1 - k / n))
    return min(size, max(1, round(rank + math.copysign(abs(deviations), deviations))))


def _unless_misled(
    x: jax.Array, k: int, marks: jax.Array, least: int, most: int
) -> jax.Array:
    """The marks a sample led to; those of the `k` largest if too few or too many."""

    def misled(state: tuple[jax.Array, jax.Array]) -> jax.Array:
        count = _num_marks(state[1])
        return (count < least) | (count > most)

    def look_at_all(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        # What does not depend on the loop's state the compiler computes ahead of the
        # loop, always; so the keys are to look as if they did. The turn is 0 here.
        turn, _ = state
        return turn + 1, _exact_marks(_magnitude_keys(x, turn), k)

    # A loop of at most one turn: under vmap it is skipped unless some vector needs it.
    return jax.lax.while_loop(misled, look_at_all, (jnp.uint32(0), marks))[1]


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
    n = x.shape[0]
    if k == n:
        return jnp.arange(k, dtype=jnp.uint32)
    if sample_size(n) == 0 or 8 * k > n:
        return _largest_at_once(x, k=k)
    return jax.lax.platform_dependent(
        x,
        tpu=functools.partial(_largest_at_once, k=k),
        default=functools.partial(_largest_by_sample, k=k),
    )


def _largest_at_once(x: jax.Array, *, k: int) -> jax.Array:
    return positions_of(_exact_marks(_magnitude_keys(x), k), _ranks(k))


def _largest_by_sample(x: jax.Array, *, k: int) -> jax.Array:
    n, keys = x.shape[0], _magnitude_keys(x)
    # Five deviations too low and as many of tolerance above: random data miss either
    # less than once in a million times, and then nothing but time is lost.
    rank = _sample_rank(n, k, 5.0)
    bracket = n * rank / sample_size(n)
    capacity = min(n, math.ceil(bracket + 5 * bracket / math.sqrt(rank)))
    threshold = kth_largest(_sample(keys, sample_size(n)), rank)
    marks = pack_marks(keys >= threshold)

    marks = _unless_misled(x, k, marks, k, capacity)
    candidates = positions_of(marks, _ranks(capacity))
    # What is behind the last candidate loses to every other, ties included.
    inside = _ranks(capacity) < _num_marks(marks)
    chosen = jnp.where(inside, keys[candidates], jnp.uint32(0))
    return candidates[positions_of(_exact_marks(chosen, k), _ranks(k))]


def indices_above_sampled(x: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """Where magnitudes reach a threshold, set by a sample so that about `k` reach it.

    The threshold is three standard deviations of the sample's rank higher than that, so
    that one vector in a thousand has more than `k`, and is looked at as a whole. Where
    the sample is too small to tell (up to some 32,000 coordinates, or very small
    `k / n`), and where more than an eighth is kept, it is `largest_indices`.

    Args:
      x: float `[n]`, `n >= 1`.
      k: in `[1, n]`, static.

    Returns:
      `(indices, count)`: ascending positions, uint32 `[k]`, of which the first `count`
      (uint32 scalar) count; those behind are 0.

    >>> import jax.numpy as jnp
    >>> indices, count = indices_above_sampled(jnp.array([1.0, -3, 2, 3, 3]), 2)
    >>> indices.tolist(), int(count)
    ([1, 3], 2)
    """
    n = x.shape[0]
    # From fewer than 400 expected in the sample the margin would be a seventh of them.
    if sample_size(n) * k < 400 * n or 8 * k > n:
        return largest_indices(x, k), jnp.asarray(k, jnp.uint32)
    keys = _magnitude_keys(x)
    rank = _sample_rank(n, k, -3.0)
    # Above the least key, so that zeros are never taken for large.
    threshold = jnp.maximum(kth_largest(_sample(keys, sample_size(n)), rank), 1)
    marks = _unless_misled(x, k, pack_marks(keys >= threshold), 0, k)
    count = _num_marks(marks)
    indices = positions_of(marks, _ranks(k))
    return jnp.where(_ranks(k) < count, indices, 0), count.astype(jnp.uint32)


def largest_of(
    x: jax.Array, indices: jax.Array, count: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The `count` of some positions with the largest magnitudes, decided inside jit.

    Args:
      x: float `[n]`.
      indices: ascending positions, uint32 `[k]`.
      count: in `[0, k]`, traced.

    Returns:
      `(indices, values)`, `[k]` each; behind the first `count` of them are zeros.
    """
    k = indices.shape[0]
    marks = _exact_marks(_magnitude_keys(x[indices]), jnp.maximum(count, 1))
    inside = jnp.arange(k, dtype=jnp.uint32) < count.astype(jnp.uint32)
    chosen = indices[positions_of(marks, _ranks(k))]
    values = jnp.where(inside, x[chosen], jnp.zeros((), x.dtype))
    return jnp.where(inside, chosen, jnp.uint32(0)), values


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
            low = low ^ (mix(high + round_keys[r]) & low_mask)
            high = high ^ (mix(low + round_keys[r + 1]) & high_mask)
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

    Raises:
      ValueError: for a leaf whose places do not fit into int32.

    >>> num_kept(1000, fraction=0.01, k=None), num_kept(3, fraction=0.01, k=None)
    (10, 1)
    >>> num_kept(3, fraction=None, k=5)
    3
    """
    if n > MAX_PLACES:
        raise ValueError(
            f"Expected leaves of at most 2^31 - 1 coordinates to select from, got one "
            f"of {n}: split it into several."
        )
    if k is None:
        k = round((fraction or 0.0) * n)
    return min(n, max(1, k))
