"""Shamir's secret sharing: any `threshold` shares tell a secret, fewer tell nothing.

Shamir, "How to share a secret", 1979, over the field of the smallest prime above
`2**256`, so that every secret of 32 bytes is an element.
"""

from collections.abc import Iterable, Mapping, Sequence

from fedjax_comp import checks
from fedjax_comp.privacy.masks import SEED_BYTES, RandomBytes

PRIME = 2**256 + 297
SHARE_BYTES = 33


def _field_element(random_bytes: RandomBytes) -> int:
    # 64 bits more than the field has: the remainder's bias is below 2**-63.
    return int.from_bytes(random_bytes(SHARE_BYTES + 8), "little") % PRIME


def split(
    random_bytes: RandomBytes,
    secret: bytes,
    *,
    threshold: int,
    places: Sequence[int],
) -> dict[int, bytes]:
    """Shares of a secret: a random polynomial of degree `threshold - 1` at `places`.

        f(z) = secret + a_1 z + ... + a_{t-1} z^{t-1}   modulo 2**256 + 297

    Args:
      random_bytes: where the coefficients come from.
      secret: 32 bytes.
      threshold: `t`, how many shares tell the secret.
      places: the points, distinct positive integers, at least `t` of them.

    Returns:
      Place to share, 33 bytes each.

    Raises:
      ValueError: for a secret of another length, or places that are not such.

    >>> import os
    >>> shares = split(os.urandom, b"k" * 32, threshold=2, places=[1, 2, 3])
    >>> combine({place: shares[place] for place in (3, 1)})
    b'kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk'
    """
    if len(secret) != SEED_BYTES:
        raise ValueError(f"Expected a secret of {SEED_BYTES} bytes, got {len(secret)}.")
    threshold = checks.integer("threshold", threshold, minimum=1, maximum=len(places))
    if len(set(places)) != len(places) or min(places) < 1:
        raise ValueError(f"Expected distinct places={list(places)} >= 1.")
    coefficients = [_field_element(random_bytes) for _ in range(threshold - 1)]

    def at(z: int) -> int:
        value = 0
        for coefficient in reversed(coefficients):
            value = (value + coefficient) * z % PRIME
        return (value + int.from_bytes(secret, "little")) % PRIME

    return {place: at(place).to_bytes(SHARE_BYTES, "little") for place in places}


def weights_at_zero(places: Iterable[int]) -> dict[int, int]:
    """Lagrange's weights: `f(0) = sum_z weight[z] f(z)` for degrees below the number.

    They depend on the places alone: compute them once for all secrets that the same
    parties share.

    >>> weights_at_zero([1, 2]) == {1: 2, 2: PRIME - 1}
    True
    """
    known = list(places)
    weights = {}
    for z in known:
        above = below = 1
        for other in known:
            if other != z:
                above = above * other % PRIME
                below = below * (other - z) % PRIME
        weights[z] = above * pow(below, -1, PRIME) % PRIME
    return weights


def combine(
    shares: Mapping[int, bytes], weights: Mapping[int, int] | None = None
) -> bytes:
    """The secret of which these are shares; a random-looking one of too few or wrong.

    Args:
      shares: place to share, at least `threshold` of one secret.
      weights: `weights_at_zero(shares)` when it is at hand.

    Returns:
      32 bytes.

    Raises:
      ValueError: when the shares do not tell a secret of 32 bytes, as happens now and
        then with wrong shares.
    """
    weights = weights_at_zero(shares) if weights is None else weights
    value = sum(
        weights[place] * int.from_bytes(share, "little")
        for place, share in shares.items()
    )
    value %= PRIME
    if value >> (8 * SEED_BYTES):
        raise ValueError("Expected shares of one secret: these do not tell 32 bytes.")
    return value.to_bytes(SEED_BYTES, "little")
