"""Sealed envelopes: what one party tells another through the server.

ChaCha20-Poly1305 (RFC 8439), an authenticated encryption: an envelope that was altered
on the way does not open.
"""

from fedjax_comp.extras import needs
from fedjax_comp.privacy.errors import TamperedShare

SEAL_BYTES = 16
"""How much longer an envelope is than what it holds."""


def _nonce(sender: int, receiver: int) -> bytes:
    # One key for both directions, one envelope in each: no nonce is used twice.
    return sender.to_bytes(2, "little") + receiver.to_bytes(2, "little") + bytes(8)


def seal(key: bytes, content: bytes, *, sender: int, receiver: int) -> bytes:
    """Encrypts `content` so that only `receiver` reads it and knows it is `sender`'s.

    Args:
      key: 32 bytes that the two agreed on, for this round alone.
      content: any bytes.
      sender: the sender's place.
      receiver: the receiver's place.

    Returns:
      16 bytes more than `content`.

    >>> key = bytes(32)
    >>> unseal(key, seal(key, b"hi", sender=1, receiver=2), sender=1, receiver=2)
    b'hi'
    """
    with needs("crypto", "secure sums"):
        from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
    nonce = _nonce(sender, receiver)
    return ChaCha20Poly1305(key).encrypt(nonce, content, None)


def unseal(key: bytes, sealed: bytes, *, sender: int, receiver: int) -> bytes:
    """What is in an envelope.

    Raises:
      TamperedShare: when it was altered, or is another pair's or round's.
    """
    with needs("crypto", "secure sums"):
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
    try:
        return ChaCha20Poly1305(key).decrypt(_nonce(sender, receiver), sealed, None)
    except InvalidTag as error:
        raise TamperedShare(
            f"The envelope from party {sender} to party {receiver} does not open: it "
            "was altered on the way, or was not sealed for this pair and round."
        ) from error
