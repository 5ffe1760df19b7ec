"""Merkle trees over SHA-256: append-only roots, and proofs about them.

The tree of `n` entries splits at `k`, the largest power of two below `n`:

    MTH({}) = SHA-256()      MTH({d}) = SHA-256(0x00 || d)
    MTH(D[n]) = SHA-256(0x01 || MTH(D[0:k]) || MTH(D[k:n]))

An inclusion proof shows that an entry is in the tree of a root, a consistency proof
that the tree of one root begins with the tree of another. Whoever checks a proof needs
the roots and a number of hashes logarithmic in `n`, never the entries.

Source: RFC 9162 (2021), "Certificate Transparency Version 2.0", section 2.1, whose
hashing is that of RFC 6962 (2013).
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256().digest()
"""The root of a tree without entries."""


def leaf_hash(entry: bytes) -> bytes:
    """`SHA-256(0x00 || entry)`.

    >>> leaf_hash(b"").hex()[:16]
    '6e340b9cffb37a98'
    """
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """`SHA-256(0x01 || left || right)`; the prefix keeps nodes from being entries."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class CompactRange(NamedTuple):
    """All that appending to a tree of `size` entries needs of it.

    Attributes:
      size: how many entries there are.
      peaks: roots of the perfect trees that `size` is made of, one for every bit that
        is set in it, the largest first.
    """

    size: int = 0
    peaks: tuple[bytes, ...] = ()


def append(tree: CompactRange, leaf: bytes) -> CompactRange:
    """The tree with one more entry.

    Args:
      tree: the tree so far.
      leaf: the entry's `leaf_hash`.

    Returns:
      The new tree; two hashes are computed for it on average.

    Source: RFC 9162, section 2.1.1, read from the right.

    >>> append(CompactRange(), leaf_hash(b"")).size
    1
    """
    peaks, size = list(tree.peaks), tree.size
    while size & 1:
        leaf = node_hash(peaks.pop(), leaf)
        size >>= 1
    return CompactRange(tree.size + 1, (*peaks, leaf))


def extend(tree: CompactRange, leaves: Sequence[bytes]) -> CompactRange:
    """The tree with all of `leaves` appended, in order."""
    for leaf in leaves:
        tree = append(tree, leaf)
    return tree


def root_of(tree: CompactRange) -> bytes:
    """The root of a compact range: its peaks joined from the right.

    >>> root_of(CompactRange()) == EMPTY_ROOT
    True
    """
    if not tree.peaks:
        return EMPTY_ROOT
    root = tree.peaks[-1]
    for peak in reversed(tree.peaks[:-1]):
        root = node_hash(peak, root)
    return root


def root(leaves: Sequence[bytes]) -> bytes:
    """The root of the tree of these leaf hashes.

    >>> root([leaf_hash(b"a")]) == leaf_hash(b"a")
    True
    """
    return root_of(extend(CompactRange(), leaves))


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The proof that entry `index` is in the tree of `leaves`.

    Args:
      leaves: the leaf hashes of all entries.
      index: which entry, from 0.

    Returns:
      The siblings on the way up, the deepest first.

    Raises:
      ValueError: when there is no such entry.

    Source: RFC 9162, section 2.1.3.1.

    >>> leaves = [leaf_hash(x) for x in (b"a", b"b", b"c")]
    >>> inclusion_proof(leaves, 0) == [leaves[1], leaves[2]]
    True
    """
    if not 0 <= index < len(leaves):
        raise ValueError(f"Expected 0 <= index={index} < {len(leaves)} entries.")
    proof: list[bytes] = []
    first, end = 0, len(leaves)
    while end - first > 1:
        middle = first + _split(end - first)
        if index < middle:
            proof.append(root(leaves[middle:end]))
            end = middle
        else:
            proof.append(root(leaves[first:middle]))
            first = middle
    return proof[::-1]


def consistency_proof(leaves: Sequence[bytes], old_size: int) -> list[bytes]:
    """The proof that the tree of `leaves` begins with its first `old_size` entries.

    Args:
      leaves: the leaf hashes of all entries.
      old_size: how many of them the older tree has.

    Returns:
      The nodes; none when the older tree is empty or the same.

    Raises:
      ValueError: when the older tree would be the larger one.

    Source: RFC 9162, section 2.1.4.1.

    >>> leaves = [leaf_hash(x) for x in (b"a", b"b", b"c")]
    >>> consistency_proof(leaves, 2) == [leaves[2]]
    True
    """
    if not 0 <= old_size <= len(leaves):
        raise ValueError(f"Expected 0 <= old_size={old_size} <= {len(leaves)} entries.")
    if old_size in (0, len(leaves)):
        return []
    proof: list[bytes] = []
    first, end, whole = 0, len(leaves), True
    while old_size != end - first:
        middle = _split(end - first)
        if old_size <= middle:
            proof.append(root(leaves[first + middle : end]))
            end = first + middle
        else:
            proof.append(root(leaves[first : first + middle]))
            first, old_size, whole = first + middle, old_size - middle, False
    if not whole:
        proof.append(root(leaves[first:end]))
    return proof[::-1]


def verify_inclusion(
    leaf: bytes, index: int, size: int, proof: Sequence[bytes], expected: bytes
) -> bool:
    """Whether `proof` shows an entry to be in a tree.

    Args:
      leaf: the entry's `leaf_hash`.
      index: its place, from 0.
      size: how many entries the tree has.
      proof: what `inclusion_proof` gave.
      expected: the tree's root.

    Source: RFC 9162, section 2.1.3.2.

    >>> leaves = [leaf_hash(x) for x in (b"a", b"b", b"c")]
    >>> verify_inclusion(leaves[1], 1, 3, inclusion_proof(leaves, 1), root(leaves))
    True
    """
    if not 0 <= index < size:
        return False
    place, last, computed = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if place & 1 or place == last:
            computed = node_hash(sibling, computed)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            computed = node_hash(computed, sibling)
        place, last = place >> 1, last >> 1
    return last == 0 and computed == expected


def verify_consistency(
    old_size: int,
    old_root: bytes,
    new_size: int,
    new_root: bytes,
    proof: Sequence[bytes],
) -> bool:
    """Whether `proof` shows that the tree of one root begins with that of another.

    Args:
      old_size: how many entries the older tree has.
      old_root: its root.
      new_size: how many the newer tree has.
      new_root: its root.
      proof: what `consistency_proof` gave.

    Source: RFC 9162, section 2.1.4.2.

    >>> leaves = [leaf_hash(x) for x in (b"a", b"b", b"c")]
    >>> proof = consistency_proof(leaves, 2)
    >>> verify_consistency(2, root(leaves[:2]), 3, root(leaves), proof)
    True
    """
    if not 0 <= old_size <= new_size:
        return False
    if old_size == 0:
        return not proof and old_root == EMPTY_ROOT
    if old_size == new_size:
        return not proof and old_root == new_root
    nodes = list(proof)
    if old_size & (old_size - 1) == 0:
        # The older tree is one perfect node of the newer, so its root is left out.
        nodes.insert(0, old_root)
    if not nodes:
        return False
    place, last = old_size - 1, new_size - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    old = new = nodes[0]
    for node in nodes[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            old, new = node_hash(node, old), node_hash(node, new)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            new = node_hash(new, node)
        place, last = place >> 1, last >> 1
    return last == 0 and old == old_root and new == new_root


def _split(size: int) -> int:
    """The largest power of two below `size`, which is at least 2."""
    return 1 << (size - 1).bit_length() - 1
