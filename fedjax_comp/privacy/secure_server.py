"""The server's part in a secure sum: it passes messages on, adds up, and unmasks.

Bonawitz et al., "Practical secure aggregation for privacy-preserving machine learning",
2017, figure 4. The server sees public keys, sealed envelopes, masked vectors and, for
each party, shares of one of its two secrets.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from fedjax_comp.privacy.errors import ProtocolError
from fedjax_comp.privacy.masks import (
    KEY_BYTES,
    KeyPair,
    Residues,
    centered,
    expand,
    key_pair,
    pairwise_mask,
    reduce_bits,
)
from fedjax_comp.privacy.messages import (
    ENVELOPE_BYTES,
    PUBLIC_BYTES,
    Setting,
    read_records,
    read_residues,
    write_places,
    write_records,
)
from fedjax_comp.privacy.secure_client import mask_seed, require_enough
from fedjax_comp.privacy.shares import SHARE_BYTES, combine, weights_at_zero


def make_roster(setting: Setting, keys: Mapping[int, bytes]) -> bytes:
    """After step 0: the public keys of all who sent theirs, for all of them.

    Args:
      setting: of this sum.
      keys: place to message.

    Returns:
      The roster.

    Raises:
      TooFewParties: when fewer than the threshold did.
      ProtocolError: when a message is malformed.
    """
    require_enough(setting, len(keys), "have sent their keys")
    for place, message in keys.items():
        # One that is longer could name the keys of a party that has sent none.
        if len(message) != PUBLIC_BYTES:
            raise ProtocolError(
                f"Expected the keys of party {place} in {PUBLIC_BYTES} bytes, got "
                f"{len(message)}."
            )
    roster = write_records(keys)
    read_records(roster, PUBLIC_BYTES, parties=setting.parties)
    return roster


def route_envelopes(
    setting: Setting, roster: bytes, sent: Mapping[int, bytes]
) -> dict[int, bytes]:
    """After step 1: every envelope to its receiver, if that has sent its own.

    Args:
      setting: of this sum.
      roster: from `make_roster`.
      sent: place to message.

    Returns:
      Place to what that party is to receive.

    Raises:
      TooFewParties: when fewer than the threshold have sent envelopes.
      ProtocolError: when someone has not sent one to everybody else.
    """
    require_enough(setting, len(sent), "have shared their secrets")
    everybody = read_records(roster, PUBLIC_BYTES, parties=setting.parties).keys()
    boxes: dict[int, dict[int, bytes]] = {place: {} for place in sent}
    for sender, message in sent.items():
        envelopes = read_records(message, ENVELOPE_BYTES, parties=setting.parties)
        if envelopes.keys() != everybody - {sender}:
            raise ProtocolError(f"Party {sender} did not write to everybody else.")
        for receiver in boxes.keys() - {sender}:
            boxes[receiver][sender] = envelopes[receiver]
    return {place: write_records(box) for place, box in boxes.items()}


def add_masked(setting: Setting, masked: Mapping[int, bytes]) -> tuple[Residues, bytes]:
    """After step 2: the sum of the masked vectors, and whose they are.

    Args:
      setting: of this sum.
      masked: place to message.

    Returns:
      The masked sum, `[n]`, and the list for those who sent one.

    Raises:
      TooFewParties: when fewer than the threshold did.
      ProtocolError: when a message is malformed.
    """
    require_enough(setting, len(masked), "have sent their vectors")
    total = np.zeros(setting.n, np.uint64)
    for message in masked.values():
        total += read_residues(message, setting)
    return reduce_bits(total, setting.bits), write_places(masked)


def unmask(
    setting: Setting,
    roster: bytes,
    sharers: frozenset[int],
    summed: frozenset[int],
    masked_sum: Residues,
    answers: Mapping[int, bytes],
) -> npt.NDArray[np.int64]:
    """After step 3: the sum of the vectors, and of nothing smaller.

    It removes the own masks of all parties in the sum, and the pairwise masks that they
    share with those who left after step 1. A wrong share of a key is always noticed,
    and one of an own mask where more than the threshold answer: with just as many,
    nothing tells it from a right one, and the sum is noise.

    Args:
      setting: of this sum.
      roster: from `make_roster`.
      sharers: who had shared their secrets, and so are masked with.
      summed: whose vectors are in the sum.
      masked_sum: from `add_masked`.
      answers: place to message, of parties in `summed`.

    Returns:
      `sum_i x_i` of the parties in `summed`, int64 `[n]` in
      `[-2**(bits-1), 2**(bits-1))`: exact when the true sum lies there.

    Raises:
      TooFewParties: when fewer than the threshold answered.
      ProtocolError: when an answer is malformed, or shares disagree or do not tell the
        key they should.
    """
    require_enough(setting, len(answers), "have answered")
    public = read_records(roster, PUBLIC_BYTES, parties=setting.parties)
    told = {
        place: read_records(message, SHARE_BYTES, parties=setting.parties)
        for place, message in answers.items()
    }
    for place, shares in told.items():
        if shares.keys() != sharers or place not in summed:
            raise ProtocolError(f"Party {place} did not answer for each party.")
    # As many shares as are needed, and as many others as there are: one polynomial.
    subsets = {tuple(sorted(told)[: setting.threshold])}
    subsets.add(tuple(sorted(told)[-setting.threshold :]))
    weights = {chosen: weights_at_zero(chosen) for chosen in subsets}

    def secret_of(party: int) -> bytes:
        try:
            secrets = {
                combine({p: told[p][party] for p in chosen}, weights[chosen])
                for chosen in subsets
            }
        except ValueError as error:
            raise ProtocolError(f"For party {party}: {error}") from error
        if len(secrets) > 1:
            raise ProtocolError(f"The shares of party {party}'s secret disagree.")
        return secrets.pop()

    n, bits = setting.n, setting.bits
    total = masked_sum.copy()
    for party in sharers:
        secret = secret_of(party)
        if party in summed:
            total -= expand(secret, n, bits=bits)
            continue
        keys: KeyPair = key_pair(secret)
        if keys.public != public[party][KEY_BYTES:]:
            raise ProtocolError(f"The shares of party {party}'s key tell another key.")
        seeds = {p: mask_seed(setting, keys, public[p][KEY_BYTES:]) for p in summed}
        # What the one who left would have added cancels what the others did.
        total += pairwise_mask(party, seeds, n, bits=bits)
    return centered(reduce_bits(total, bits), bits)
