"""Masks: published vectors, and that they cancel."""

import hmac

import numpy as np
import pytest

from fedjax_comp.privacy import masks
from fedjax_comp.privacy.errors import ProtocolError


def test_public_key_of_rfc_7748():
    """Section 6.1: Bob's."""
    private = "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"
    public = "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    assert masks.key_pair(bytes.fromhex(private)).public.hex() == public


def test_agreement_is_hkdf_of_the_secret_of_rfc_7748():
    """Section 6.1's shared secret, through RFC 5869 written with `hmac`."""
    bob = masks.key_pair(
        bytes.fromhex(
            "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"
        )
    )
    alice = bytes.fromhex(
        "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    )
    secret = bytes.fromhex(
        "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
    )
    info = b"purpose" + min(alice, bob.public) + max(alice, bob.public)
    extracted = hmac.digest(bytes(32), secret, "sha256")
    expected = hmac.digest(extracted, info + b"\x01", "sha256")
    assert masks.agree(bob, alice, purpose=b"purpose") == expected


@pytest.mark.parametrize("bits", [1, 7, 8, 13, 16, 24, 32, 33, 64])
def test_stream_is_the_cipher_of_rfc_8439(bits):
    """Section 2.3.2's block function under the zero key, appendix A.1, vector 1."""
    block = bytes.fromhex(
        "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
        "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
    )
    width = next(w for w in (1, 2, 4, 8) if 8 * w >= bits)
    expected = [
        int.from_bytes(block[i : i + width], "little") % 2**bits
        for i in range(0, 64, width)
    ]
    assert masks.expand(bytes(32), 64 // width, bits=bits).tolist() == expected


@pytest.mark.parametrize("bits", [1, 9, 32, 64])
def test_pairwise_masks_cancel_and_none_is_zero(bits):
    keys = [masks.key_pair(bytes([i + 1]) * 32) for i in range(5)]
    n = 40
    total = np.zeros(n, np.uint64)
    for i, own in enumerate(keys):
        seeds = {
            j: masks.agree(own, other.public, purpose=b"test")
            for j, other in enumerate(keys)
            if j != i
        }
        mask = masks.pairwise_mask(i, seeds, n, bits=bits)
        assert mask.any()
        assert int(mask.max()) < 2**bits
        total += mask
    assert not masks.reduce_bits(total, bits).any()


def test_seeds_of_other_purposes_and_peers_differ():
    a, b, c = (masks.key_pair(bytes([i]) * 32) for i in (1, 2, 3))
    seeds = {
        masks.agree(a, peer.public, purpose=purpose)
        for peer in (b, c)
        for purpose in (b"one", b"two")
    }
    assert len(seeds) == 4


def test_a_key_of_small_order_is_refused():
    with pytest.raises(ProtocolError, match="public key"):
        masks.agree(masks.key_pair(bytes([1]) * 32), bytes(32), purpose=b"x")


@pytest.mark.parametrize("bits", [1, 5, 63, 64])
def test_centered_inverts_the_residues(bits):
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    values = np.array([low, -1 if bits > 1 else 0, 0, high], np.int64)
    residues = masks.reduce_bits(values.view(np.uint64), bits)
    np.testing.assert_array_equal(masks.centered(residues, bits), values)
