"""The messages of a secure sum as bytes: what is counted is what is sent.

All of them are records of fixed lengths, places are 16 bits, little-endian:

    keys       channel key 32, masking key 32                        to the server
    roster     place 2, keys 64; for each party                      from it
    envelopes  place of the other 2, sealed shares 82; for each      to and from it
    masked     n residues of `bits` bits                             to it
    summed     place 2; for each party whose vector has arrived      from it
    answer     place 2, share 33; for each party                     to it
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from fedjax_comp import checks
from fedjax_comp.privacy.envelopes import SEAL_BYTES
from fedjax_comp.privacy.errors import ProtocolError
from fedjax_comp.privacy.masks import KEY_BYTES, Residues, reduce_bits
from fedjax_comp.privacy.shares import SHARE_BYTES
from fedjax_comp.wire.bitstream import BitReader, BitWriter
from fedjax_comp.wire.errors import WireError

PLACE_BYTES = 2
PUBLIC_BYTES = 2 * KEY_BYTES
ENVELOPE_BYTES = 2 * SHARE_BYTES + SEAL_BYTES


Count = Any
"""How many: a Python int, or an integer array inside jit."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all parties of a secure sum know beforehand.

    Attributes:
      parties: how many may take part, `C`; their places are `1 ... C`.
      threshold: how many must stay to the end, `t`.
      n: integers in a vector.
      bits: sums are modulo `2**bits`.
      tag: names the run and round; part of every key, so that no message of one round
        is good in another.
    """

    parties: int
    threshold: int
    n: int
    bits: int
    tag: bytes


def secure_setting(
    *, parties: int, n: int, bits: int, tag: bytes, threshold: int | None = None
) -> Setting:
    """The setting of one secure sum.

    Args:
      parties: `C`, in [2, 65535].
      n: integers in a vector, at least 1.
      bits: of the modulus, in [1, 64].
      tag: a name that no other round has.
      threshold: `t`, in (C/2, C]; `2C // 3 + 1` when None. With `2t > C + m` the
        server and `m` parties that tell it all they know cannot have both secrets of
        any other party, since each party answers for either the one or the other.

    Returns:
      A `Setting`.

    Raises:
      ValueError: when an argument is not as above.

    >>> secure_setting(parties=10, n=4, bits=16, tag=b"run 1, round 7").threshold
    7
    """
    parties = checks.integer("parties", parties, minimum=2, maximum=(1 << 16) - 1)
    threshold = checked_threshold(threshold, parties)
    n = checks.integer("n", n, minimum=1)
    bits = checks.integer("bits", bits, minimum=1, maximum=64)
    if not isinstance(tag, bytes) or not tag:
        raise ValueError(f"Expected tag={tag!r}, bytes that name the round.")
    return Setting(parties, threshold, n, bits, tag)


def checked_threshold(threshold: int | None, parties: int) -> int:
    """How many must stay: more than half; more than two thirds when None.

    Raises:
      ValueError: for a threshold, or a number of parties, out of its range.

    >>> [checked_threshold(None, parties) for parties in (2, 3, 10)]
    [2, 3, 7]
    """
    parties = checks.integer("parties", parties, minimum=2, maximum=(1 << 16) - 1)
    if threshold is None:
        return min(parties, 2 * parties // 3 + 1)
    threshold = checks.integer("threshold", threshold, minimum=2, maximum=parties)
    if 2 * threshold <= parties:
        raise ValueError(
            f"Expected threshold={threshold} > parties/2={parties / 2:g}: two halves "
            "of the parties could otherwise be asked for the two secrets of one."
        )
    return threshold


class Agreement(NamedTuple):
    """Bytes of one client's messages but for its masked vector, in their order.

    Attributes:
      sent: keys, envelopes; and of those whose vectors arrived, the answer.
      received: roster, envelopes; and of the same, the list of those in the sum.
    """

    sent: tuple[Count, Count, Count]
    received: tuple[Count, Count, Count]


def agreement_bytes(agreed: Count, arrived: Count) -> Agreement:
    """Bytes of a secure sum's keys, shares and lists, which no value changes.

    Args:
      agreed: clients that advertised keys and shared secrets.
      arrived: those of them whose vectors arrived.

    >>> agreement_bytes(10, 10)
    Agreement(sent=(64, 756, 350), received=(660, 756, 20))
    """
    envelopes = (agreed - 1) * (PLACE_BYTES + ENVELOPE_BYTES)
    answer = agreed * (PLACE_BYTES + SHARE_BYTES)
    roster = agreed * (PLACE_BYTES + PUBLIC_BYTES)
    return Agreement(
        sent=(PUBLIC_BYTES, envelopes, answer),
        received=(roster, envelopes, arrived * PLACE_BYTES),
    )


def write_records(records: Mapping[int, bytes]) -> bytes:
    """Places and what belongs to each, in ascending order.

    >>> write_records({2: b"b", 1: b"a"}).hex()
    '010061020062'
    """
    return b"".join(
        place.to_bytes(PLACE_BYTES, "little") + records[place]
        for place in sorted(records)
    )


def read_records(message: bytes, length: int, *, parties: int) -> dict[int, bytes]:
    """The inverse of `write_records` for records of `length` bytes.

    Raises:
      ProtocolError: when the bytes are not such records of distinct, ascending places
        in `1 ... parties`.

    >>> read_records(bytes([1, 0, 97, 2, 0, 98]), 1, parties=2)
    {1: b'a', 2: b'b'}
    """
    size = PLACE_BYTES + length
    if len(message) % size:
        raise ProtocolError(
            f"Expected records of {size} bytes, got {len(message)} bytes."
        )
    records: dict[int, bytes] = {}
    last = 0
    for start in range(0, len(message), size):
        place = int.from_bytes(message[start : start + PLACE_BYTES], "little")
        if not last < place <= parties:
            raise ProtocolError(
                f"Expected ascending places in [1, {parties}], got {place} after "
                f"{last}."
            )
        records[place] = message[start + PLACE_BYTES : start + size]
        last = place
    return records


def write_places(places: Iterable[int]) -> bytes:
    """A set of places."""
    return write_records(dict.fromkeys(places, b""))


def read_places(message: bytes, *, parties: int) -> frozenset[int]:
    """The inverse of `write_places`; raises `ProtocolError`."""
    return frozenset(read_records(message, 0, parties=parties))


def write_residues(residues: Residues, bits: int) -> bytes:
    """`[n]` residues in `bits` bits each, the last byte filled up with zeros."""
    writer = BitWriter()
    writer.write(reduce_bits(residues, bits), bits)
    return writer.to_bytes()


def read_residues(message: bytes, setting: Setting) -> Residues:
    """The inverse of `write_residues`; raises `ProtocolError`."""
    reader = BitReader(message)
    try:
        residues = reader.read(setting.n, setting.bits)
        reader.finish()
    except WireError as error:
        raise ProtocolError(f"A masked vector is malformed: {error}") from error
    return residues
