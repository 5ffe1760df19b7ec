"""Shamir's sharing: every subset, and what too few shares tell."""

import itertools
import os

import pytest
from scipy import stats

from fedjax_comp.privacy import shares

SECRET = bytes(range(200, 232))


def is_probable_prime(number):
    """Miller and Rabin's test for forty fixed bases; wrong with odds below 4**-40."""
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in range(2, 42):
        power = pow(base, odd, number)
        if power in (1, number - 1):
            continue
        if not any(
            (power := power * power % number) == number - 1 for _ in range(twos)
        ):
            return False
    return True


def test_the_field_is_of_the_smallest_prime_above_all_secrets():
    assert is_probable_prime(shares.PRIME)
    assert not any(map(is_probable_prime, range(2**256 + 1, shares.PRIME, 2)))
    assert (shares.PRIME - 1).bit_length() <= 8 * shares.SHARE_BYTES


@pytest.mark.parametrize("threshold", [1, 2, 3, 5, 6])
def test_every_large_enough_subset_tells_the_secret_and_no_smaller_one(threshold):
    places = [1, 2, 3, 7, 100, 65535]
    split = shares.split(os.urandom, SECRET, threshold=threshold, places=places)
    for size in range(1, len(places) + 1):
        for chosen in itertools.combinations(places, size):
            known = {place: split[place] for place in chosen}
            try:
                told = shares.combine(known)
            except ValueError:
                told = None
            assert (told == SECRET) == (size >= threshold)


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32])
def test_extreme_secrets(secret):
    split = shares.split(os.urandom, secret, threshold=2, places=[1, 2, 3])
    del split[2]
    assert shares.combine(split) == secret


def test_a_share_by_itself_is_uniform():
    """Chi-square of the lowest byte over fresh sharings; false alarm below 1e-6."""
    trials = 4096
    for secret in (bytes(32), SECRET):
        counts = [0] * 256
        for _ in range(trials):
            split = shares.split(os.urandom, secret, threshold=2, places=[1, 2])
            counts[split[1][0]] += 1
        chi_square = sum((c - trials / 256) ** 2 for c in counts) / (trials / 256)
        assert chi_square < stats.chi2.isf(2e-7, 255)


def test_mistakes():
    for arguments, message in (
        ({"threshold": 3, "places": [1, 2]}, "threshold=3"),
        ({"threshold": 1, "places": [1, 1]}, "distinct"),
        ({"threshold": 1, "places": [0, 1]}, ">= 1"),
    ):
        with pytest.raises(ValueError, match=message):
            shares.split(os.urandom, SECRET, **arguments)
    with pytest.raises(ValueError, match="32 bytes"):
        shares.split(os.urandom, b"short", threshold=1, places=[1])
