"""Trees and proofs, held against the recursive definitions of RFC 9162."""

import hashlib

import hypothesis
import hypothesis.strategies as st
import pytest

from fedjax_comp.audit.merkle import (
    EMPTY_ROOT,
    CompactRange,
    append,
    consistency_proof,
    extend,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root,
    root_of,
    verify_consistency,
    verify_inclusion,
)

# The entries of the certificate-transparency projects' reference tree, and the roots of
# its first n of them.
ENTRIES = [
    bytes.fromhex(x)
    for x in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = {
    0: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}


def split(n):
    k = 1
    while 2 * k < n:
        k *= 2
    return k


def naive_root(entries):
    if not entries:
        return hashlib.sha256().digest()
    if len(entries) == 1:
        return hashlib.sha256(b"\x00" + entries[0]).digest()
    k = split(len(entries))
    left, right = naive_root(entries[:k]), naive_root(entries[k:])
    return hashlib.sha256(b"\x01" + left + right).digest()


def naive_path(m, entries):
    """PATH(m, D[n]) of section 2.1.3.1."""
    if len(entries) == 1:
        return []
    k = split(len(entries))
    if m < k:
        return [*naive_path(m, entries[:k]), naive_root(entries[k:])]
    return [*naive_path(m - k, entries[k:]), naive_root(entries[:k])]


def naive_subproof(m, entries, whole):
    """SUBPROOF(m, D[n], b) of section 2.1.4.1."""
    if m == len(entries):
        return [] if whole else [naive_root(entries)]
    k = split(len(entries))
    if m <= k:
        return [*naive_subproof(m, entries[:k], whole), naive_root(entries[k:])]
    return [*naive_subproof(m - k, entries[k:], False), naive_root(entries[:k])]


def test_the_reference_tree():
    for size, expected in ROOTS.items():
        assert root([leaf_hash(x) for x in ENTRIES[:size]]).hex() == expected


def test_roots_and_compact_ranges_are_those_of_the_recursion():
    tree, entries = CompactRange(), []
    assert root_of(tree) == EMPTY_ROOT
    for i in range(130):
        entries.append(i.to_bytes(2, "big"))
        tree = append(tree, leaf_hash(entries[-1]))
        assert root_of(tree) == naive_root(entries)
        assert tree.size == len(entries)
        assert len(tree.peaks) == tree.size.bit_count()


def test_all_proofs_are_those_of_the_recursion_and_verify():
    entries = [bytes([i]) for i in range(33)]
    for size in range(1, len(entries) + 1):
        some = entries[:size]
        leaves = [leaf_hash(x) for x in some]
        top = naive_root(some)
        for i in range(size):
            proof = inclusion_proof(leaves, i)
            assert proof == naive_path(i, some)
            assert verify_inclusion(leaves[i], i, size, proof, top)
        for old in range(size + 1):
            proof = consistency_proof(leaves, old)
            assert proof == (naive_subproof(old, some, True) if old else [])
            assert verify_consistency(old, naive_root(some[:old]), size, top, proof)


@st.composite
def trees(draw):
    size = draw(st.integers(1, 70))
    return [bytes([i]) for i in range(size)], draw(st.integers(0, size - 1))


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(trees(), st.data())
def test_an_inclusion_proof_proves_nothing_else(tree, data):
    entries, i = tree
    leaves, size = [leaf_hash(x) for x in entries], len(entries)
    top, proof = root(leaves), inclusion_proof(leaves, i)
    other = data.draw(st.integers(0, size - 1))
    assert verify_inclusion(leaves[other], i, size, proof, top) == (other == i)
    assert verify_inclusion(leaves[i], other, size, proof, top) == (other == i)
    assert not verify_inclusion(leaves[i], i, size, [*proof, top], top)
    assert not verify_inclusion(leaves[i], size, size, proof, top)
    if proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        bad = [*proof]
        bad[at] = bytes([proof[at][0] ^ 1]) + proof[at][1:]
        assert not verify_inclusion(leaves[i], i, size, bad, top)
        assert not verify_inclusion(leaves[i], i, size, proof[:-1], top)


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(trees(), st.data())
def test_a_consistency_proof_proves_nothing_else(tree, data):
    entries, old = tree
    leaves, size = [leaf_hash(x) for x in entries], len(entries)
    hypothesis.assume(old > 0)
    top, proof = root(leaves), consistency_proof(leaves, old)
    changed = [*leaves[:old]]
    at = data.draw(st.integers(0, old - 1))
    changed[at] = leaf_hash(b"another")
    # Neither from another beginning, nor by its own proof, nor with a node too many.
    assert not verify_consistency(old, root(changed), size, top, proof)
    forged = [*changed, *leaves[old:]]
    other = consistency_proof(forged, old)
    assert not verify_consistency(old, root(leaves[:old]), size, root(forged), other)
    assert not verify_consistency(old, root(leaves[:old]), size, top, [*proof, top])
    assert not verify_consistency(old, root(leaves[:old]), size, top, proof[:-1])
    assert not verify_consistency(size, top, old, root(leaves[:old]), [])


def path_root(leaf, index, size, path):
    """The root that a path leads to, by the recursion; None for a path of no tree."""
    if not 0 <= index < size:
        return None
    if size == 1:
        return None if path else leaf
    if not path:
        return None
    k = split(size)
    if index < k:
        below = path_root(leaf, index, k, path[:-1])
        return below and node_hash(below, path[-1])
    below = path_root(leaf, index - k, size - k, path[:-1])
    return below and node_hash(path[-1], below)


def test_an_inclusion_proof_is_of_its_place_and_size():
    # `last == 0` at the end: a proof too short for the size that is claimed. In the
    # loop: one too long, for a root that was made to fit it.
    leaves = [leaf_hash(bytes([i])) for i in range(12)]
    extra = leaf_hash(b"extra")
    short = long = 0
    for size in range(1, 13):
        top = root(leaves[:size])
        for i in range(size):
            leaf, proof = leaves[i], inclusion_proof(leaves[:size], i)
            for claimed in range(1, 30):
                for at in {i, claimed - 1, 0}:
                    found = verify_inclusion(leaf, at, claimed, proof, top)
                    assert found == (path_root(leaf, at, claimed, proof) == top)
                    short += not found
            for made in (node_hash(extra, top), node_hash(top, extra)):
                assert not verify_inclusion(leaf, i, size, [*proof, extra], made)
                long += 1
    assert short > 1000
    assert long > 100


def test_a_consistency_proof_is_of_its_two_sizes():
    leaves = [leaf_hash(bytes([i])) for i in range(12)]
    extra = leaf_hash(b"extra")
    for new in range(2, 13):
        for old in range(1, new):
            roots = root(leaves[:old]), root(leaves[:new])
            proof = consistency_proof(leaves[:new], old)
            assert verify_consistency(old, roots[0], new, roots[1], proof)
            # A proof too long, for roots that were made to fit it.
            grown = [node_hash(extra, x) for x in roots]
            longer = [*proof, extra]
            for first in (roots[0], grown[0]):
                assert not verify_consistency(old, first, new, grown[1], longer)
            # A proof too short for the size that is claimed: a larger tree's has more
            # nodes, but where the paths of both trees have one form.
            for claimed in range(new + 1, 30):
                known = [*leaves[:new], *[extra] * (claimed - new)]
                same_form = len(consistency_proof(known, old)) == len(proof)
                found = verify_consistency(old, roots[0], claimed, roots[1], proof)
                assert found <= same_form


def test_a_node_is_never_an_entry():
    left, right = leaf_hash(b"a"), leaf_hash(b"b")
    assert leaf_hash(left + right) != node_hash(left, right)


def test_extend_is_append_after_append():
    leaves = [leaf_hash(bytes([i])) for i in range(9)]
    tree = extend(extend(CompactRange(), leaves[:4]), leaves[4:])
    assert tree == extend(CompactRange(), leaves)


@pytest.mark.parametrize("index", [-1, 2])
def test_no_proof_of_what_is_not_there(index):
    leaves = [leaf_hash(b"a"), leaf_hash(b"b")]
    with pytest.raises(ValueError, match="Expected 0 <= index"):
        inclusion_proof(leaves, index)
    with pytest.raises(ValueError, match="Expected 0 <= old_size"):
        consistency_proof(leaves, 3)
