"""A whole secure sum on one host: every party's steps, drop-outs, and what was sent.

Bonawitz et al., "Practical secure aggregation for privacy-preserving machine learning",
2017. Here the parties are simulated; `secure_client` and `secure_server` are what each
of them would run, and they exchange nothing but the bytes that are counted.
"""

import enum
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fedjax_comp.privacy import secure_client, secure_server
from fedjax_comp.privacy.masks import RandomBytes
from fedjax_comp.privacy.messages import Setting, read_places


class Step(enum.IntEnum):
    """The four messages of a client."""

    ADVERTISE = 0
    SHARE = 1
    MASK = 2
    ANSWER = 3


class SecureTraffic(NamedTuple):
    """Bytes of the serialised messages.

    Attributes:
      uplink_bytes: int64 `[4, C]`, by step and party.
      downlink_bytes: int64 `[4, C]`, what the server answered each step with.
    """

    uplink_bytes: npt.NDArray[np.int64]
    downlink_bytes: npt.NDArray[np.int64]


class SecureSum(NamedTuple):
    """What became of a secure sum.

    Attributes:
      total: int64 `[n]`, the sum of the vectors of `summed`, all the server learns.
      summed: the parties in the sum, counted from 0, ascending.
      traffic: bytes by step and party.
    """

    total: npt.NDArray[np.int64]
    summed: tuple[int, ...]
    traffic: SecureTraffic


def secure_sum(
    random_bytes: RandomBytes,
    setting: Setting,
    vectors: Sequence[npt.NDArray[np.int64]],
    *,
    drops: Mapping[int, Step] | None = None,
) -> SecureSum:
    """Sums the parties' vectors without showing any of them to the server.

    Args:
      random_bytes: `os.urandom`.
      setting: of this sum, from `secure_setting`.
      vectors: int64 `[n]`, one a party.
      drops: parties (counted from 0) and the first step whose message they fail to
        send; who drops at `ANSWER` is in the sum all the same.

    Returns:
      A `SecureSum`.

    Raises:
      ValueError: when there are not `setting.parties` vectors, or one is malformed.
      TooFewParties: when at any step fewer than the threshold are left.

    >>> import os
    >>> from fedjax_comp.privacy.messages import secure_setting
    >>> setting = secure_setting(parties=3, threshold=2, n=2, bits=8, tag=b"round 0")
    >>> vectors = [np.array([i, -i]) for i in (1, 2, 3)]
    >>> result = secure_sum(os.urandom, setting, vectors, drops={1: Step.MASK})
    >>> result.total.tolist(), result.summed
    ([4, -4], (0, 2))
    """
    if len(vectors) != setting.parties:
        raise ValueError(
            f"Expected parties={setting.parties} vectors, got {len(vectors)}."
        )
    leaves = {place + 1: step for place, step in (drops or {}).items()}
    if not leaves.keys() <= set(range(1, setting.parties + 1)):
        raise ValueError(f"Expected drops={drops} of parties below {setting.parties}.")
    up = np.zeros((len(Step), setting.parties), np.int64)
    down = np.zeros_like(up)

    def stays(place: int, step: Step) -> bool:
        return leaves.get(place, len(Step)) > step

    def record(
        table: npt.NDArray[np.int64], step: Step, sent: Mapping[int, bytes]
    ) -> None:
        for place, message in sent.items():
            table[step, place - 1] += len(message)

    keys = {
        place: secure_client.advertise(random_bytes, place)
        for place in range(1, setting.parties + 1)
        if stays(place, Step.ADVERTISE)
    }
    advertised = {place: message for place, (_, message) in keys.items()}
    record(up, Step.ADVERTISE, advertised)
    roster = secure_server.make_roster(setting, advertised)
    record(down, Step.ADVERTISE, dict.fromkeys(keys, roster))

    shared = {
        place: secure_client.share_secrets(random_bytes, setting, state, roster)
        for place, (state, _) in keys.items()
        if stays(place, Step.SHARE)
    }
    sent = {place: message for place, (_, message) in shared.items()}
    record(up, Step.SHARE, sent)
    boxes = secure_server.route_envelopes(setting, roster, sent)
    record(down, Step.SHARE, boxes)

    masked = {
        place: secure_client.mask_vector(
            setting, state, boxes[place], vectors[place - 1]
        )
        for place, (state, _) in shared.items()
        if stays(place, Step.MASK)
    }
    vectors_sent = {place: message for place, (_, message) in masked.items()}
    record(up, Step.MASK, vectors_sent)
    masked_sum, summed = secure_server.add_masked(setting, vectors_sent)
    record(down, Step.MASK, dict.fromkeys(masked, summed))

    answers = {
        place: secure_client.answer(setting, state, summed)
        for place, (state, _) in masked.items()
        if stays(place, Step.ANSWER)
    }
    record(up, Step.ANSWER, answers)
    survivors = read_places(summed, parties=setting.parties)
    total = secure_server.unmask(
        setting, roster, frozenset(shared), survivors, masked_sum, answers
    )
    parties = tuple(sorted(place - 1 for place in survivors))
    return SecureSum(total, parties, SecureTraffic(up, down))
