"""Masks that cancel: from a Diffie-Hellman agreement to a stream of residues.

Bonawitz et al., "Practical secure aggregation for privacy-preserving machine learning",
2017, section 4. Two parties agree on a seed by X25519 (RFC 7748) and HKDF-SHA256 (RFC
5869); ChaCha20 (RFC 8439) expands it to residues modulo `2**bits`, which one of them
adds and the other subtracts.
"""

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fedjax_comp.extras import needs
from fedjax_comp.privacy.errors import ProtocolError

RandomBytes = Callable[[int], bytes]
"""`(count) -> bytes`: `os.urandom`, wherever anything is to stay secret."""

Residues = npt.NDArray[np.uint64]
"""Integers modulo `2**bits`, `[n]`."""

SEED_BYTES = 32
KEY_BYTES = 32


class KeyPair(NamedTuple):
    """A private key and its public one, 32 bytes each."""

    private: bytes
    public: bytes


def key_pair(private: bytes) -> KeyPair:
    """The X25519 key pair of 32 secret bytes.

    >>> key_pair(bytes(range(32))).public.hex()[:16]
    '8f40c5adb68f2562'
    """
    public = _x25519().X25519PrivateKey.from_private_bytes(private).public_key()
    return KeyPair(private, public.public_bytes_raw())


def _x25519() -> ModuleType:
    with needs("crypto", "secure sums"):
        from cryptography.hazmat.primitives.asymmetric import x25519
    return x25519


def agree(own: KeyPair, peer: bytes, *, purpose: bytes) -> bytes:
    """The seed that two parties share and nobody else can compute.

        seed = HKDF(X25519(own.private, peer), info = purpose || both public keys)

    Args:
      own: this party's key pair.
      peer: the other's public key, 32 bytes.
      purpose: what the seed is for, the round included: seeds of different purposes
        are unrelated.

    Returns:
      32 bytes, the same at both parties.

    Raises:
      ProtocolError: for a public key of small order, which no honest party has.

    >>> a, b = key_pair(bytes(32)), key_pair(bytes([1]) * 32)
    >>> agree(a, b.public, purpose=b"x") == agree(b, a.public, purpose=b"x")
    True
    """
    with needs("crypto", "secure sums"):
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF
    x25519 = _x25519()
    try:
        secret = x25519.X25519PrivateKey.from_private_bytes(own.private).exchange(
            x25519.X25519PublicKey.from_public_bytes(peer)
        )
    except ValueError as error:
        raise ProtocolError(f"A public key is not valid: {error}.") from error
    info = purpose + b"".join(sorted((own.public, peer)))
    return HKDF(SHA256(), length=SEED_BYTES, salt=None, info=info).derive(secret)


def expand(seed: bytes, n: int, *, bits: int) -> Residues:
    """The ChaCha20 stream of a seed as `n` residues modulo `2**bits`.

    Args:
      seed: 32 bytes, used for one stream only.
      n: how many.
      bits: in [1, 64].

    Returns:
      uint64 `[n]`, uniform in `[0, 2**bits)` to whoever does not know the seed.

    >>> expand(bytes(32), 4, bits=8).tolist()
    [118, 184, 224, 173]
    """
    with needs("crypto", "secure sums"):
        from cryptography.hazmat.primitives.ciphers import Cipher
        from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
    width = next(w for w in (1, 2, 4, 8) if 8 * w >= bits)
    # The nonce may be fixed: a seed is expanded once.
    stream = Cipher(ChaCha20(seed, bytes(16)), mode=None).encryptor()
    words = np.frombuffer(stream.update(bytes(n * width)), f"<u{width}")
    return reduce_bits(words.astype(np.uint64), bits)


def reduce_bits(values: Residues, bits: int) -> Residues:
    """`values` modulo `2**bits`; sums modulo `2**64` may be reduced at the end."""
    return values & np.uint64((1 << bits) - 1)


def pairwise_mask(
    index: int, seeds: Mapping[int, bytes], n: int, *, bits: int
) -> Residues:
    """What party `index` adds on behalf of its pairs; zero when all parties' are added.

        sum_{j > index} PRG(s_j) - sum_{j < index} PRG(s_j)   modulo 2**bits

    Args:
      index: this party's place.
      seeds: the other parties' places and the seeds shared with them.
      n: residues.
      bits: of the modulus.

    Returns:
      `[n]` residues.

    >>> seed = bytes(32)
    >>> both = [pairwise_mask(i, {1 - i: seed}, 3, bits=16) for i in (0, 1)]
    >>> reduce_bits(both[0] + both[1], 16).tolist()
    [0, 0, 0]
    """
    total = np.zeros(n, np.uint64)
    for other, seed in seeds.items():
        stream = expand(seed, n, bits=bits)
        if other > index:
            total += stream
        else:
            total -= stream
    return reduce_bits(total, bits)


def centered(residues: Residues, bits: int) -> npt.NDArray[np.int64]:
    """The integers in `[-2**(bits-1), 2**(bits-1))` that residues stand for, `[n]`.

    >>> centered(np.array([1, 255], np.uint64), 8).tolist()
    [1, -1]
    """
    up = np.uint64(64 - bits)
    return (residues << up).view(np.int64) >> up.astype(np.int64)
