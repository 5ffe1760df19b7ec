"""The protocol: exact under every pattern of drop-outs, and what the server sees."""

import itertools
import os

import numpy as np
import pytest
from scipy import stats

from fedjax_comp.privacy import secure_client, secure_server
from fedjax_comp.privacy.errors import ProtocolError, TamperedShare, TooFewParties
from fedjax_comp.privacy.masks import expand, reduce_bits
from fedjax_comp.privacy.messages import (
    ENVELOPE_BYTES,
    PLACE_BYTES,
    read_records,
    read_residues,
    secure_setting,
    write_places,
    write_records,
)
from fedjax_comp.privacy.secure_sum import Step, secure_sum
from fedjax_comp.privacy.shares import SHARE_BYTES

STAYS = len(Step)


def setting_of(parties, threshold=None, n=3, bits=16):
    return secure_setting(
        parties=parties, threshold=threshold, n=n, bits=bits, tag=b"test 0"
    )


def vectors_of(setting, seed=0):
    rng = np.random.default_rng(seed)
    most = 2 ** (setting.bits - 1) // setting.parties - 1
    shape = (setting.parties, setting.n)
    return list(rng.integers(-most, most, shape, endpoint=True))


@pytest.mark.parametrize(("parties", "threshold"), [(2, 2), (3, 2), (3, 3), (4, 3)])
def test_exact_under_every_pattern_of_drop_outs(parties, threshold):
    setting = setting_of(parties, threshold)
    vectors = vectors_of(setting)
    for pattern in itertools.product([*Step, STAYS], repeat=parties):
        drops = {i: step for i, step in enumerate(pattern) if step < STAYS}
        left = [sum(last > step for last in pattern) for step in Step]
        if min(left) < threshold:
            with pytest.raises(TooFewParties, match=f"threshold of {threshold}"):
                secure_sum(os.urandom, setting, vectors, drops=drops)
            continue
        result = secure_sum(os.urandom, setting, vectors, drops=drops)
        summed = [i for i, last in enumerate(pattern) if last > Step.MASK]
        assert list(result.summed) == summed
        np.testing.assert_array_equal(result.total, sum(vectors[i] for i in summed))


@pytest.mark.parametrize("bits", [1, 8, 11, 32, 64])
def test_exact_modulo_any_power_of_two(bits):
    setting = setting_of(5, n=33, bits=bits)
    rng = np.random.default_rng(bits)
    vectors = list(rng.integers(-(2**62), 2**62, (5, 33)))
    total = secure_sum(os.urandom, setting, vectors, drops={4: Step.MASK}).total
    expected = sum(v.astype(object) for v in vectors[:4])
    assert not ((total.astype(object) - expected) % 2**bits).any()
    assert total.min() >= -(2 ** (bits - 1))
    assert total.max() < 2 ** (bits - 1)


class Round:
    """All clients' states and messages up to the masked vectors."""

    def __init__(self, setting, vectors):
        places = range(1, setting.parties + 1)
        self.setting = setting
        self.keys = {p: secure_client.advertise(os.urandom, p) for p in places}
        self.roster = secure_server.make_roster(
            setting, {p: message for p, (_, message) in self.keys.items()}
        )
        self.shared = {
            p: secure_client.share_secrets(
                os.urandom, setting, self.keys[p][0], self.roster
            )
            for p in places
        }
        self.boxes = secure_server.route_envelopes(
            setting, self.roster, {p: m for p, (_, m) in self.shared.items()}
        )
        self.masked = {
            p: secure_client.mask_vector(
                setting, self.shared[p][0], self.boxes[p], vectors[p - 1]
            )
            for p in places
        }

    def residues(self, place):
        return read_residues(self.masked[place][1], self.setting)


def uniformity_p_value(residues):
    """The least p-value of bytes' counts and of their pairs' parities, Bonferroni's."""
    counts = np.bincount(residues.astype(np.int64), minlength=256)
    expected = residues.size / 256
    chi_square = np.sum((counts - expected) ** 2) / expected
    bytes_p = 2 * min(stats.chi2.sf(chi_square, 255), stats.chi2.cdf(chi_square, 255))
    low = (residues & np.uint64(1)).astype(np.int64)
    flips = int(np.sum(low[1:] ^ low[:-1]))
    flips_p = stats.binomtest(flips, low.size - 1).pvalue
    return min(1.0, 2 * min(bytes_p, flips_p))


LEAST_P = 1e-8
"""Some thirty tests at this level raise a false alarm in fewer than 1 of 10^6 runs."""


def test_whatever_the_server_can_add_up_is_uniform():
    """One masked vector, and every sum of some, whatever is in them."""
    setting = setting_of(3, n=8192, bits=8)
    for content in (0, 1):
        vectors = [np.full(setting.n, content, np.int64)] * 3
        sent = Round(setting, vectors)
        for size in (1, 2, 3):
            for places in itertools.combinations((1, 2, 3), size):
                seen = reduce_bits(sum(sent.residues(p) for p in places), 8)
                assert uniformity_p_value(seen) > LEAST_P


def test_what_is_left_when_the_own_mask_is_known_is_uniform():
    """Pairwise masks hide a vector by themselves, as for a server that knows a seed."""
    setting = setting_of(3, n=8192, bits=8)
    sent = Round(setting, [np.zeros(setting.n, np.int64)] * 3)
    own = expand(sent.shared[1][0].self_seed, setting.n, bits=8)
    assert uniformity_p_value(reduce_bits(sent.residues(1) - own, 8)) > LEAST_P


@pytest.mark.parametrize("fault", ["no mask", "short mask", "mask of half the bits"])
def test_the_uniformity_test_catches_planted_faults(fault):
    rng = np.random.default_rng(0)
    update = np.round(rng.normal(0, 20, 8192)).astype(np.int64).view(np.uint64)
    mask = expand(os.urandom(32), 8192, bits=8)
    if fault == "no mask":
        mask = np.zeros_like(mask)
    elif fault == "short mask":
        mask[4096:] = 0
    else:
        mask &= np.uint64(15)
    assert uniformity_p_value(reduce_bits(update + mask, 8)) < LEAST_P


def test_two_rounds_have_unrelated_masks():
    setting = setting_of(2, n=8192, bits=8)
    vectors = [np.zeros(setting.n, np.int64)] * 2
    first, second = Round(setting, vectors), Round(setting, vectors)
    difference = reduce_bits(first.residues(1) - second.residues(1), 8)
    assert uniformity_p_value(difference) > LEAST_P


def test_every_flipped_bit_of_an_envelope_is_refused():
    setting = setting_of(2)
    sent = Round(setting, vectors_of(setting))
    box = bytearray(sent.boxes[1])
    for bit in range(8 * PLACE_BYTES, 8 * len(box)):
        box[bit // 8] ^= 1 << bit % 8
        with pytest.raises(TamperedShare, match="from party 2 to party 1"):
            secure_client.mask_vector(
                setting, sent.shared[1][0], bytes(box), np.zeros(3, np.int64)
            )
        box[bit // 8] ^= 1 << bit % 8


def test_an_envelope_of_another_sender_or_round_is_refused():
    setting = setting_of(3)
    sent, other = (Round(setting, vectors_of(setting)) for _ in range(2))
    mine = read_records(sent.boxes[1], ENVELOPE_BYTES, parties=3)
    foreign = read_records(other.boxes[1], ENVELOPE_BYTES, parties=3)
    for box in ({2: mine[3], 3: mine[2]}, {2: foreign[2], 3: mine[3]}):
        with pytest.raises(TamperedShare):
            secure_client.mask_vector(
                setting, sent.shared[1][0], write_records(box), np.zeros(3, np.int64)
            )


def test_a_client_tells_one_secret_of_each_party():
    """Never both; so the server never has both while 2t > C."""
    setting = setting_of(4, 3)
    sent = Round(setting, vectors_of(setting))
    masked = sent.masked[1][0]
    told = read_records(
        secure_client.answer(setting, masked, write_places({1, 2, 4})),
        SHARE_BYTES,
        parties=4,
    )
    assert told.keys() == {1, 2, 3, 4}
    for place, share in told.items():
        of_key, of_seed = (
            masked.held[place][:SHARE_BYTES],
            masked.held[place][SHARE_BYTES:],
        )
        assert share == (of_key if place == 3 else of_seed)


@pytest.mark.parametrize(
    ("summed", "error"),
    [({1, 2}, TooFewParties), ({2, 3, 4}, ProtocolError)],
)
def test_a_client_refuses_to_unmask_too_few_or_without_itself(summed, error):
    setting = setting_of(4, 3)
    sent = Round(setting, vectors_of(setting))
    with pytest.raises(error):
        secure_client.answer(setting, sent.masked[1][0], write_places(summed))


def test_a_client_refuses_a_wrong_roster():
    setting = setting_of(3, 2)
    keys, message = secure_client.advertise(os.urandom, 1)
    other = secure_client.advertise(os.urandom, 2)[1]
    for roster, error in (
        ({1: other, 2: message}, "other keys for party 1"),
        ({1: message, 2: message}, "twice"),
        ({1: message}, "below the threshold"),
        ({1: message, 4: other}, "places"),
    ):
        with pytest.raises(ProtocolError, match=error):
            secure_client.share_secrets(
                os.urandom, setting, keys, write_records(roster)
            )


def unmask_with_a_wrong_share(*, of_party, answering):
    """Parties 1 to 4 are summed and 5 left; one bit of the first one's share flips."""
    setting = setting_of(5, 3)
    vectors = vectors_of(setting)
    sent = Round(setting, vectors)
    arrived = {p: sent.masked[p][1] for p in (1, 2, 3, 4)}
    masked_sum, summed = secure_server.add_masked(setting, arrived)
    answers = {
        p: secure_client.answer(setting, sent.masked[p][0], summed) for p in answering
    }
    parties = frozenset({1, 2, 3, 4, 5}), frozenset({1, 2, 3, 4})
    arguments = (setting, sent.roster, *parties, masked_sum)
    total = secure_server.unmask(*arguments, answers)
    np.testing.assert_array_equal(total, sum(vectors[:4]))
    records = read_records(answers[1], SHARE_BYTES, parties=5)
    wrong = records[of_party]
    records[of_party] = wrong[:5] + bytes([wrong[5] ^ 1]) + wrong[6:]
    return secure_server.unmask(*arguments, {**answers, 1: write_records(records)})


@pytest.mark.parametrize("answering", [(1, 2, 3), (1, 2, 3, 4)])
def test_a_wrong_share_of_a_key_is_noticed(answering):
    with pytest.raises(ProtocolError):
        unmask_with_a_wrong_share(of_party=5, answering=answering)


def test_a_wrong_share_of_an_own_mask_is_noticed_by_one_more():
    with pytest.raises(ProtocolError, match="party 2"):
        unmask_with_a_wrong_share(of_party=2, answering=(1, 2, 3, 4))


@pytest.mark.parametrize("cut", [-1, 1])
def test_messages_of_a_wrong_length_are_refused(cut):
    setting = setting_of(2)
    sent = Round(setting, vectors_of(setting))

    def bent(message):
        return message[:-1] if cut < 0 else message + b"\0"

    messages = {p: m for p, (_, m) in sent.masked.items()}
    messages[1] = bent(messages[1])
    with pytest.raises(ProtocolError):
        secure_server.add_masked(setting, messages)
    envelopes = {p: m for p, (_, m) in sent.shared.items()}
    envelopes[1] = bent(envelopes[1])
    with pytest.raises(ProtocolError):
        secure_server.route_envelopes(setting, sent.roster, envelopes)


def test_bytes_are_those_of_the_messages():
    """Every party: 64 of keys, 84 for each envelope, n bits / 8, 35 for each share."""
    parties, n, bits = 5, 21, 13
    setting = setting_of(parties, 3, n=n, bits=bits)
    drops = {0: Step.ADVERTISE, 1: Step.SHARE, 2: Step.ANSWER}
    vectors = vectors_of(setting)
    with pytest.raises(TooFewParties):
        secure_sum(os.urandom, setting, vectors, drops=drops)
    drops = {0: Step.ADVERTISE, 1: Step.MASK}
    traffic = secure_sum(os.urandom, setting, vectors, drops=drops).traffic
    masked = -(-n * bits // 8)
    np.testing.assert_array_equal(
        traffic.uplink_bytes,
        [
            [0, 64, 64, 64, 64],
            [0, 3 * 84, 3 * 84, 3 * 84, 3 * 84],
            [0, 0, masked, masked, masked],
            [0, 0, 4 * 35, 4 * 35, 4 * 35],
        ],
    )
    np.testing.assert_array_equal(
        traffic.downlink_bytes,
        [
            [0, 4 * 66, 4 * 66, 4 * 66, 4 * 66],
            [0, 3 * 84, 3 * 84, 3 * 84, 3 * 84],
            [0, 0, 3 * 2, 3 * 2, 3 * 2],
            [0, 0, 0, 0, 0],
        ],
    )


def test_mistakes():
    for arguments, message in (
        ({"parties": 1}, "parties=1"),
        ({"parties": 4, "threshold": 2}, "threshold=2 > parties/2"),
        ({"parties": 4, "threshold": 5}, "threshold=5"),
        ({"parties": 4, "bits": 65}, "bits=65"),
        ({"parties": 4, "n": 0}, "n=0"),
    ):
        with pytest.raises(ValueError, match=message):
            setting_of(**arguments)
    with pytest.raises(ValueError, match="tag"):
        secure_setting(parties=2, n=1, bits=8, tag=b"")
    setting = setting_of(2)
    with pytest.raises(ValueError, match="2 vectors, got 1"):
        secure_sum(os.urandom, setting, [np.zeros(3, np.int64)])
    with pytest.raises(ValueError, match="n=3"):
        secure_sum(os.urandom, setting, [np.zeros(4, np.int64)] * 2)
    with pytest.raises(ValueError, match="parties below 2"):
        secure_sum(os.urandom, setting, vectors_of(setting), drops={2: Step.MASK})
