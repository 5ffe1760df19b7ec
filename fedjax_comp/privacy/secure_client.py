"""A client's four steps in a secure sum, each a pure function of what it received.

Bonawitz et al., "Practical secure aggregation for privacy-preserving machine learning",
2017, figure 4, for a server that is curious but follows the protocol (no signatures, no
consistency check). A client draws its secrets in the first two steps, and answers one
request to unmask: call `answer` only once with its state.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fedjax_comp.privacy.envelopes import seal, unseal
from fedjax_comp.privacy.errors import ProtocolError, TooFewParties
from fedjax_comp.privacy.masks import (
    KEY_BYTES,
    SEED_BYTES,
    KeyPair,
    RandomBytes,
    agree,
    expand,
    key_pair,
    pairwise_mask,
)
from fedjax_comp.privacy.messages import (
    ENVELOPE_BYTES,
    PUBLIC_BYTES,
    Setting,
    read_places,
    read_records,
    write_records,
    write_residues,
)
from fedjax_comp.privacy.shares import SHARE_BYTES, split

CHANNEL, MASKING = b"fedjax_comp envelope ", b"fedjax_comp mask "


class ClientKeys(NamedTuple):
    """A client's own secrets: where it stands, and two key pairs for this round.

    Attributes:
      place: in `1 ... C`.
      channel: seals its envelopes.
      masking: its pairwise masks come from it; this private key is shared out.
    """

    place: int
    channel: KeyPair
    masking: KeyPair


class ClientShares(NamedTuple):
    """A client that has shared its secrets out.

    Attributes:
      keys: its own.
      self_seed: of the mask that only survivors' answers remove.
      roster: place to public keys of all parties.
      own: its shares of its own two secrets.
    """

    keys: ClientKeys
    self_seed: bytes
    roster: dict[int, bytes]
    own: bytes


class ClientMasked(NamedTuple):
    """A client that has sent its vector.

    Attributes:
      place: its own.
      held: place to the two shares that it holds for that party, its own included.
    """

    place: int
    held: dict[int, bytes]


def channel_key(setting: Setting, own: KeyPair, peer: bytes) -> bytes:
    """The key that seals envelopes between two parties in this round."""
    return agree(own, peer, purpose=CHANNEL + setting.tag)


def mask_seed(setting: Setting, own: KeyPair, peer: bytes) -> bytes:
    """The seed of the mask that two parties have in common in this round."""
    return agree(own, peer, purpose=MASKING + setting.tag)


def advertise(random_bytes: RandomBytes, place: int) -> tuple[ClientKeys, bytes]:
    """Step 0: draws two key pairs and publishes their public keys.

    Args:
      random_bytes: `os.urandom`.
      place: this client's, in `1 ... C`.

    Returns:
      The client's state and its message to the server.
    """
    channel = key_pair(random_bytes(KEY_BYTES))
    masking = key_pair(random_bytes(KEY_BYTES))
    return ClientKeys(place, channel, masking), channel.public + masking.public


def share_secrets(
    random_bytes: RandomBytes, setting: Setting, keys: ClientKeys, roster: bytes
) -> tuple[ClientShares, bytes]:
    """Step 1: shares its masking key and a fresh seed among all parties.

    Args:
      random_bytes: `os.urandom`.
      setting: of this sum.
      keys: from `advertise`.
      roster: the server's list of all public keys.

    Returns:
      The client's state and one envelope for every other party.

    Raises:
      TooFewParties: when fewer than the threshold are on the roster.
      ProtocolError: when the roster has this client's keys wrong, or a key twice.
    """
    known = read_records(roster, PUBLIC_BYTES, parties=setting.parties)
    require_enough(setting, len(known), "are on the roster")
    if known.get(keys.place) != keys.channel.public + keys.masking.public:
        raise ProtocolError(f"The roster has other keys for party {keys.place}.")
    halves = {
        half
        for keys_ in known.values()
        for half in (keys_[:KEY_BYTES], keys_[KEY_BYTES:])
    }
    if len(halves) != 2 * len(known):
        raise ProtocolError("The roster holds a public key twice.")
    self_seed = random_bytes(SEED_BYTES)
    places = sorted(known)
    of_key = split(
        random_bytes, keys.masking.private, threshold=setting.threshold, places=places
    )
    of_seed = split(random_bytes, self_seed, threshold=setting.threshold, places=places)
    envelopes = {
        other: seal(
            channel_key(setting, keys.channel, known[other][:KEY_BYTES]),
            of_key[other] + of_seed[other],
            sender=keys.place,
            receiver=other,
        )
        for other in places
        if other != keys.place
    }
    own = of_key[keys.place] + of_seed[keys.place]
    return ClientShares(keys, self_seed, known, own), write_records(envelopes)


def mask_vector(
    setting: Setting,
    shared: ClientShares,
    envelopes: bytes,
    vector: npt.NDArray[np.int64],
) -> tuple[ClientMasked, bytes]:
    """Step 2: opens its envelopes and sends its vector under all masks.

        y_i = x_i + PRG(b_i) + sum_{j > i} PRG(s_ij) - sum_{j < i} PRG(s_ij)

    modulo `2**bits`, over the parties `j` of which it has an envelope.

    Args:
      setting: of this sum.
      shared: from `share_secrets`.
      envelopes: those that the server passed on.
      vector: integers `[n]`; they are taken modulo `2**bits`.

    Returns:
      The client's state and the masked vector.

    Raises:
      ValueError: for a vector of another length or of other numbers than integers.
      TooFewParties: when fewer than the threshold have shared their secrets.
      ProtocolError: when the envelopes are malformed, or one is of an unknown party.
      TamperedShare: when an envelope does not open.
    """
    if vector.shape != (setting.n,) or vector.dtype != np.int64:
        raise ValueError(
            f"Expected an int64 vector of n={setting.n}, got {vector.dtype} of shape "
            f"{vector.shape}."
        )
    keys = shared.keys
    sealed = read_records(envelopes, ENVELOPE_BYTES, parties=setting.parties)
    require_enough(setting, len(sealed) + 1, "have shared their secrets")
    if not sealed.keys() <= shared.roster.keys() - {keys.place}:
        raise ProtocolError(
            "There is an envelope of a party that is not on the roster."
        )
    held = {keys.place: shared.own}
    seeds = {}
    for other, envelope in sealed.items():
        public = shared.roster[other]
        key = channel_key(setting, keys.channel, public[:KEY_BYTES])
        held[other] = unseal(key, envelope, sender=other, receiver=keys.place)
        seeds[other] = mask_seed(setting, keys.masking, public[KEY_BYTES:])
    masked = (
        vector.view(np.uint64)
        + expand(shared.self_seed, setting.n, bits=setting.bits)
        + pairwise_mask(keys.place, seeds, setting.n, bits=setting.bits)
    )
    return ClientMasked(keys.place, held), write_residues(masked, setting.bits)


def answer(setting: Setting, masked: ClientMasked, summed: bytes) -> bytes:
    """Step 3: for each party one share, of its seed if summed and its key if gone.

    Never both: together they would reveal that party's vector.

    Args:
      setting: of this sum.
      masked: from `mask_vector`. Drop it afterwards: a client answers once.
      summed: the server's list of the parties whose vectors have arrived.

    Returns:
      The message to the server.

    Raises:
      TooFewParties: when fewer than the threshold are to be summed.
      ProtocolError: when the list has an unknown party or not this one.
    """
    survivors = read_places(summed, parties=setting.parties)
    require_enough(setting, len(survivors), "have sent their vectors")
    if not survivors <= masked.held.keys() or masked.place not in survivors:
        raise ProtocolError(
            f"Party {masked.place} is asked to unmask a sum of parties that it did not "
            "mask with."
        )
    return write_records(
        {
            other: both[SHARE_BYTES:] if other in survivors else both[:SHARE_BYTES]
            for other, both in masked.held.items()
        }
    )


def require_enough(setting: Setting, parties: int, what: str) -> None:
    """Raises `TooFewParties` when `parties` are below the threshold."""
    if parties < setting.threshold:
        raise TooFewParties(
            f"Only {parties} parties {what}, below the threshold of "
            f"{setting.threshold}: this sum cannot be formed, start another round."
        )
