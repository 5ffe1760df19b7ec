"""Messages: bits equal bytes, bytes give the payload back, damage gives `WireError`."""

import tracemalloc

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_comp.wire.accounting import message_bits, num_bits
from fedjax_comp.wire.bitstream import BitWriter
from fedjax_comp.wire.codes import (
    elias_delta,
    elias_gamma,
    elias_omega,
    fixed_width,
    rans,
    rans_words,
    shortest_index_set,
)
from fedjax_comp.wire.codes.fixed_width import bit_width
from fedjax_comp.wire.codes.golomb import best_rice, golomb_rice, write_golomb
from fedjax_comp.wire.codes.rans_by_class import Classified, rans_by_class
from fedjax_comp.wire.codes.weibull import weibull_tables
from fedjax_comp.wire.errors import WireError
from fedjax_comp.wire.fields import Coded, IndexSet, Raw, Symbols, keep_prefix
from fedjax_comp.wire.message import (
    HEADER_BYTES,
    frame,
    from_bytes,
    pack_body,
    to_bytes,
    to_bytes_all,
    unpack_body,
)
from fedjax_comp.wire.raw import dtype_bits

RNG = np.random.default_rng(0)
LEVELS = RNG.choice(5, 700, p=[0.9, 0.04, 0.03, 0.02, 0.01]).astype(np.uint8)
SYMBOLS = Symbols(jnp.asarray(LEVELS), 5)
INDICES = IndexSet(
    jnp.asarray(np.sort(RNG.choice(5000, 60, replace=False)), jnp.uint32), 5000
)
DENSE = IndexSet(
    jnp.asarray(np.sort(RNG.choice(500, 450, replace=False)), jnp.uint32), 500
)
BITMAP = IndexSet(jnp.arange(0, 100, 2, dtype=jnp.uint32), 100)
LARGE = Symbols(jnp.asarray(RNG.integers(2**20, size=300) >> 9, jnp.uint32), 2**20)
# The side values are the sizes of two symbols each, all of one shape.
BY_CLASS = rans_by_class(
    "by class",
    weibull_tables(0.4),
    lambda side: jnp.repeat(side.astype(jnp.int32), 2),
    symbols_per_lane=50,
)
CLASSIFIED = Classified(
    Symbols(jnp.asarray(RNG.integers(0, 32, 200), jnp.uint8), 32),
    Symbols(jnp.asarray(RNG.integers(0, 2**10, 400), jnp.uint16), 2**10),
)

PAYLOADS = {
    "empty": [],
    "arrays": {"w": jnp.arange(6.0).reshape(2, 3), "scalar": jnp.float32(-0.0)},
    "zero size": [jnp.zeros((0, 3)), Raw(jnp.zeros(0, jnp.bfloat16))],
    "fields": [SYMBOLS, Raw(jnp.ones(3, jnp.bfloat16)), INDICES],
    "golomb": Coded(INDICES, shortest_index_set()),
    "complement": Coded(DENSE, shortest_index_set()),
    "bitmap": Coded(BITMAP, shortest_index_set()),
    "rans": [Coded(SYMBOLS, rans()), jnp.ones(2)],
    "rans lanes": Coded(SYMBOLS, rans(symbols_per_lane=50)),
    "rans large": Coded(LARGE, rans()),
    "elias": [Coded(SYMBOLS, c()) for c in (elias_gamma, elias_delta, elias_omega)],
    "fixed": Coded(SYMBOLS, fixed_width()),
    "classified": Coded(CLASSIFIED, BY_CLASS),
}


def raw_bytes(tree):
    return [
        (x.dtype, x.shape, np.ascontiguousarray(x).tobytes())
        for x in jax.tree.leaves(tree)
    ]


def assert_same(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    assert raw_bytes(ours) == raw_bytes(theirs)


@pytest.mark.parametrize("name", PAYLOADS)
def test_bits_are_bytes_and_bytes_are_the_payload(name):
    payload = PAYLOADS[name]
    data = to_bytes(payload)
    body_bits = message_bits(jax.jit(num_bits)(payload))
    assert len(data) == HEADER_BYTES + -(-body_bits // 8)
    assert_same(from_bytes(data, payload), payload)
    assert_same(from_bytes(data, jax.eval_shape(lambda: payload)), payload)


def shuffled(payload, seed):
    """The payload with other symbols, of which a third are those of index 0."""
    random = np.random.default_rng(seed)

    def other(node):
        if not isinstance(node, Symbols):
            return node
        values = np.asarray(node.values).copy()
        values[random.random(values.shape) < seed / 3] = values.ravel()[0]
        return Symbols(jnp.asarray(random.permutation(values)), node.cardinality)

    return jax.tree.map(other, payload, is_leaf=lambda x: isinstance(x, Symbols))


@pytest.mark.parametrize("few_rows", [0, 128])
@pytest.mark.parametrize("name", PAYLOADS)
def test_messages_written_together_are_those_written_alone(name, few_rows, monkeypatch):
    monkeypatch.setattr(rans_words, "_FEW_ROWS", few_rows)
    monkeypatch.setattr(rans_words, "_SIDE_BY_SIDE", 32)
    payloads = [shuffled(PAYLOADS[name], seed) for seed in range(4)]
    written = to_bytes_all(payloads)
    assert written == [to_bytes(payload) for payload in payloads]
    for data, payload in zip(written, payloads, strict=True):
        assert_same(from_bytes(data, payload), payload)


def test_no_messages_at_all_and_one_that_cannot_be_written():
    assert to_bytes_all([]) == []
    wrong = Coded(Symbols(jnp.full(700, 5, jnp.uint8), 5), rans())
    with pytest.raises(WireError, match="Expected 5 < 5"):
        to_bytes_all([Coded(SYMBOLS, rans()), wrong])


@pytest.mark.parametrize(
    "dtype",
    [
        "bool",
        "int4",
        "uint4",
        "int8",
        "uint8",
        "int16",
        "uint16",
        "int32",
        "uint32",
        "float8_e4m3fn",
        "float8_e5m2",
        "float16",
        "bfloat16",
        "float32",
        "complex64",
    ],
)
def test_every_pattern_of_bits_survives(dtype):
    numpy_dtype = jnp.dtype(dtype)
    patterns = RNG.integers(0, 256, 512 * numpy_dtype.itemsize).astype(np.uint8)
    if dtype in ("bool", "int4", "uint4"):
        patterns %= 2 if dtype == "bool" else 16
    values = jnp.asarray(patterns.view(numpy_dtype))
    payload = [SYMBOLS, values, values[:3]]
    data = to_bytes(payload)
    assert len(data) == HEADER_BYTES + -(-message_bits(num_bits(payload)) // 8)
    assert_same(from_bytes(data, payload), payload)


def test_payloads_of_nan_survive():
    quiet = np.array([0x7FC00001, 0xFFC12345, 0x7F800001], np.uint32).view(np.float32)
    half = np.array([0x7FC1, 0xFF81], np.uint16).view(ml_dtypes.bfloat16)
    payload = [jnp.asarray(quiet), Raw(jnp.asarray(half))]
    assert_same(from_bytes(to_bytes(payload), payload), payload)


def test_keys_do_not_travel():
    with pytest.raises(ValueError, match="keys do not travel"):
        num_bits([jax.random.key(0)])


# -------------------------------------------------------------------------- damage


def test_each_kind_of_damage_is_named():
    payload = PAYLOADS["fields"]
    data = to_bytes(payload)
    for damaged, words in [
        (b"", "at least 16 bytes"),
        (data[:15], "at least 16 bytes"),
        (b"X" + data[1:], "begins with"),
        (data[:3] + b"\x09" + data[4:], "version"),
        (data[:-1], "a body of"),
        (data + b"\x00", "a body of"),
        (data[:-1] + bytes([data[-1] ^ 1]), "checksum"),
        (frame(data[HEADER_BYTES:] + b"\x00"), "goes on"),
        (frame(data[HEADER_BYTES:-1]), "ends early"),
    ]:
        with pytest.raises(WireError, match=words):
            from_bytes(damaged, payload)


def test_values_that_the_field_excludes_are_refused():
    for kind, values, words in [
        (lambda v: Symbols(v, 5), [4, 6], "6 < 5"),
        (lambda v: IndexSet(v, 5), [1, 6], "6 < 5"),
        (lambda v: IndexSet(v, 5), [2, 2], "ascending"),
    ]:
        wide = Symbols(jnp.asarray(values, jnp.uint32), 8)
        with pytest.raises(WireError, match=words):
            unpack_body(pack_body(wide), kind(wide.values))


def test_filling_bits_must_be_zero():
    body = pack_body(Symbols(jnp.ones(1, jnp.uint8), 4))
    with pytest.raises(WireError, match="not zero"):
        unpack_body(bytes([body[0] | 128]), Symbols(jnp.ones(1, jnp.uint8), 4))


def attempt(data, template, payload=None):
    try:
        back = from_bytes(data, template)
    except WireError:
        return
    if payload is not None:
        assert_same(back, payload)
    # Whatever is accepted is the one message of its payload.
    assert to_bytes(back) == data


def other_spelling(field):
    """The same payload as a code that is made to choose badly writes it."""
    writer = BitWriter()
    match field.field:
        case IndexSet(values=values, bound=bound):
            # A bitmap, although the gaps are shorter.
            present = np.zeros(bound, np.uint64)
            present[np.asarray(values)] = 1
            writer.write([1, 0] if bound >= 1024 else [1], 1)
            writer.write(present, 1)
        case Symbols() if field.code is golomb_rice():
            width = bit_width(field.field.cardinality)
            numbers = np.asarray(field.field.values).astype(np.uint64)
            worse = best_rice(numbers, width)[0] + 1
            writer.write([worse], width.bit_length())
            write_golomb(numbers, 1 << worse, writer)
        case Symbols():
            # Fixed width, although rANS is shorter.
            writer.write([0], 1)
            width = bit_width(field.field.cardinality)
            writer.write(field.field.values, width)
    return writer.to_bytes()


@pytest.mark.parametrize(
    "field",
    [
        Coded(SYMBOLS, rans()),
        Coded(SYMBOLS, golomb_rice()),
        Coded(IndexSet(jnp.array([3, 40], jnp.uint32), 100), shortest_index_set()),
    ],
    ids=lambda field: field.code.name,
)
def test_another_spelling_of_a_payload_is_refused(field):
    body = other_spelling(field)
    assert body != pack_body(field)
    assert_same(unpack_body(body, field), field)
    with pytest.raises(WireError, match="in another way than it is written"):
        from_bytes(frame(body), field)


@settings(max_examples=300, deadline=None)
@given(
    name=st.sampled_from(sorted(PAYLOADS)),
    flips=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=3),
    keep=st.one_of(st.just(1.0), st.floats(0, 1)),
    tail=st.binary(max_size=3),
)
def test_damaged_messages_give_only_wire_errors(name, flips, keep, tail):
    payload = PAYLOADS[name]
    data = bytearray(to_bytes(payload))
    for place, mask in flips:
        data[int(place * (len(data) - 1))] ^= mask
    damaged = bytes(data[: round(keep * len(data))]) + tail
    attempt(damaged, payload, payload)


@settings(max_examples=200, deadline=None)
@given(name=st.sampled_from(sorted(PAYLOADS)), data=st.binary(max_size=200))
def test_random_bytes_give_only_wire_errors(name, data):
    attempt(data, PAYLOADS[name], PAYLOADS[name])


@settings(max_examples=400, deadline=None)
@given(
    name=st.sampled_from(sorted(PAYLOADS)),
    flips=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), max_size=4),
    keep=st.one_of(st.just(1.0), st.floats(0, 1)),
    tail=st.binary(max_size=8),
)
def test_forged_bodies_give_only_wire_errors(name, flips, keep, tail):
    body = bytearray(pack_body(PAYLOADS[name]))
    for place, mask in flips:
        if body:
            body[int(place * (len(body) - 1))] ^= mask
    forged = bytes(body[: round(keep * len(body))]) + tail
    attempt(frame(forged), PAYLOADS[name])


@settings(max_examples=300, deadline=None)
@given(name=st.sampled_from(sorted(PAYLOADS)), body=st.binary(max_size=300))
def test_random_bodies_give_only_wire_errors(name, body):
    attempt(frame(body), PAYLOADS[name])


@pytest.mark.parametrize("body", [b"", b"\x00" * 40, b"\xfe" * 40], ids=len)
def test_short_messages_do_not_make_the_decoder_allocate(body):
    # 2**28 symbols would take 2 GiB as the uint64 that decoders work in. (Not for rANS:
    # an honest message of 2**28 equal symbols is this short.)
    shape = jax.ShapeDtypeStruct((2**28 - 2**17,), "uint8")
    indices = jax.ShapeDtypeStruct((2**27,), "uint32")
    templates = [
        jax.ShapeDtypeStruct((2**28,), "float32"),
        Symbols(shape, 200),
        IndexSet(indices, 2**30),
        Coded(IndexSet(indices, 2**30), shortest_index_set()),
        *(
            Coded(Symbols(shape, 200), code())
            for code in (elias_gamma, elias_delta, elias_omega, fixed_width)
        ),
    ]
    for template in templates:
        tracemalloc.start()
        with pytest.raises(WireError):
            from_bytes(frame(body), template)
        assert tracemalloc.get_traced_memory()[1] < 2**22
        tracemalloc.stop()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "bool"])
@pytest.mark.parametrize("count", [0, 1, 5, 6])
def test_of_a_counted_array_only_the_first_values_travel(dtype, count):
    full = jnp.arange(1, 7).reshape(2, 3).astype(dtype)
    field = Raw(keep_prefix(full, jnp.uint32(count)), jnp.uint32(count))
    data = to_bytes([field])
    bits = message_bits(jax.jit(num_bits)([field]))
    assert bits == 3 + count * dtype_bits(dtype)
    assert len(data) == HEADER_BYTES + -(-bits // 8)
    (back,) = from_bytes(data, jax.eval_shape(lambda: [field]))
    assert back.values.dtype == dtype
    assert int(back.count) == count
    np.testing.assert_array_equal(back.values, field.values)


def test_a_counted_array_that_is_none_is_refused():
    with pytest.raises(WireError, match="Expected zeros behind the first 1 values"):
        to_bytes(Raw(jnp.ones(3), jnp.uint32(1)))
    template = jax.eval_shape(lambda: Raw(jnp.ones(4), jnp.uint32(1)))
    with pytest.raises(WireError, match=r"Expected count=7 in \[0, 4\]"):
        from_bytes(frame(bytes([7])), template)
    huge = Raw(jax.ShapeDtypeStruct((2**27,), "float32"), jnp.uint32(1))
    with pytest.raises(ValueError, match="split the leaf"):
        num_bits(huge)
