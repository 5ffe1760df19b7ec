"""Payloads as words: the bits of their messages, exactly as many, and back again."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmark.hlo_cost import Program
from fedjax_comp.base import make_context
from fedjax_comp.compress import budgeted_quantize, chain, entropy_coded, qsgd, top_k
from fedjax_comp.wire.accounting import num_bits
from fedjax_comp.wire.fields import Coded, IndexSet, Raw, Symbols, fields, is_field
from fedjax_comp.wire.message import pack_body
from fedjax_comp.wire.payload_words import from_words, num_words, to_words
from fedjax_comp.wire.words import group_of
from tests.conformance.compressor_table import COMPRESSORS

DTYPES = (
    "bool",
    "int2",
    "uint4",
    "float4_e2m1fn",
    "int8",
    "float8_e4m3fn",
    "int16",
    "float16",
    "bfloat16",
    "uint32",
    "float32",
    "complex64",
)


def bits_of(array) -> bytes:
    return np.asarray(array).tobytes()


def assert_same_bits(found, sent):
    assert jax.tree.structure(found) == jax.tree.structure(sent)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(sent), strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert bits_of(one) == bits_of(other)


def check_words(payload):
    """As many words as are counted, the same when compiled, and the payload again."""
    template = jax.eval_shape(lambda: payload)
    words = jax.jit(to_words)(payload)
    assert words.dtype == jnp.uint32
    assert words.shape == (-(-num_bits(payload).fixed // 32),)
    assert num_words(template) == words.size
    assert_same_bits(jax.jit(lambda w: from_words(template, w))(words), payload)
    return words


@pytest.mark.parametrize("width", [1, 3, 5, 8, 12, 17, 31, 32])
def test_symbols_of_every_width_behind_one_another(width: int):
    rng = np.random.default_rng(width)

    def symbols(cardinality, *shape):
        drawn = rng.integers(cardinality, size=shape, dtype=np.uint64)
        dtype = jnp.uint8 if cardinality <= 256 else jnp.uint32
        return Symbols(jnp.asarray(drawn.astype(dtype)), cardinality)

    # A cardinality that is no power of two, and fields that begin within a word.
    odd = max(2**width - 1, 2)
    check_words(
        [
            symbols(3, 7),
            symbols(2**width, 5, 9),
            symbols(1, 4),
            symbols(odd, 77),
            symbols(2**width, 0),
            Raw(jnp.asarray(rng.standard_normal(2), jnp.float32)),
        ]
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_of_every_dtype(dtype):
    rng = np.random.default_rng(0)
    values = jnp.asarray(3 * rng.standard_normal((3, 7)), jnp.float32).astype(dtype)
    ahead = Symbols(jnp.ones(5, jnp.uint8), 8)
    check_words([ahead, Raw(values), values, values[0, 0], values[:0]])


def test_signs_of_zeros_and_contents_of_nans_are_kept():
    patterns = np.array([0x80000000, 0x7FC01234, 0xFF800001, 0x00000001], np.uint32)
    check_words([Symbols(jnp.ones(1, jnp.uint8), 2), jnp.asarray(patterns.view("<f4"))])


def in_order(field):
    """A field with its numbers in the order in which the stream would have them."""
    array = field.values if is_field(field) else field
    flat = np.asarray(array).ravel()
    width = num_bits(field).fixed // max(flat.size, 1)
    if not width:
        return field
    group = group_of(width)
    if group.words != 1:
        raise ValueError("the words of a group lie a stride apart")
    whole = flat.size - flat.size % group.numbers
    first = flat[:whole].reshape(group.numbers, -1).T.ravel()
    moved = jnp.asarray(np.concatenate([first, flat[whole:]]))
    return dataclasses.replace(field, values=moved) if is_field(field) else moved


@pytest.mark.thorough
def test_words_are_the_message_with_the_numbers_of_each_field_reordered():
    rng = np.random.default_rng(3)
    payload = [
        Symbols(jnp.asarray(rng.integers(16, size=45), jnp.uint8), 16),
        Symbols(jnp.asarray(rng.integers(3, size=(5, 7)), jnp.uint8), 3),
        Raw(jnp.asarray(rng.standard_normal(11), jnp.bfloat16)),
        jnp.asarray(rng.standard_normal(3), jnp.float32),
        jnp.asarray(rng.integers(2, size=41), bool),
    ]
    body = pack_body([in_order(field) for field in payload])
    words = np.asarray(to_words(payload)).astype("<u4").tobytes()
    assert words == body + bytes(len(words) - len(body))


LIKE = {
    "matrix": jax.ShapeDtypeStruct((6, 5), jnp.float32),
    "half": jax.ShapeDtypeStruct((13,), jnp.bfloat16),
    "count": jax.ShapeDtypeStruct((3,), jnp.int32),
}


def template_of(entry):
    """What a compressor of the battery sends of a tree, as shapes."""
    compressor = entry.make()

    def encode(key, tree, sender):
        return compressor.encode(make_context(key, 0), tree, sender)[0]

    sender = compressor.init(LIKE).sender
    return jax.eval_shape(encode, jax.random.key(0), LIKE, sender)


def has_fixed_length(field):
    depends = [getattr(field, name, None) is not None for name in ("count", "width")]
    return not isinstance(field, Coded) and not any(depends)


def filled(template, rng):
    """A payload of any bits that its fields may have, two of it."""

    def fill(field):
        like = field.values if is_field(field) else field
        shape, most = (2, *like.shape), getattr(field, "cardinality", None)
        most = getattr(field, "bound", most)
        if most is not None:
            drawn = jnp.asarray(rng.integers(most, size=shape).astype(like.dtype))
        else:
            size = jnp.dtype(like.dtype).itemsize
            top = 2 if like.dtype == jnp.bool_ else 256
            raw = rng.integers(top, size=(*shape, size), dtype=np.uint8)
            drawn = jnp.asarray(raw.view(like.dtype).reshape(shape))
        return dataclasses.replace(field, values=drawn) if is_field(field) else drawn

    return jax.tree.map(fill, template, is_leaf=is_field)


def check_mapped(template, rng):
    payloads = filled(template, rng)

    @jax.jit
    def there_and_back(payloads):
        words = jax.vmap(to_words)(payloads)
        return words, jax.vmap(lambda w: from_words(template, w))(words)

    words, back = there_and_back(payloads)
    assert_same_bits(back, payloads)
    assert words.shape == (2, -(-num_bits(template).fixed // 32))


@pytest.mark.thorough
@pytest.mark.parametrize(
    "part", [0, 1, *(pytest.param(i, marks=pytest.mark.slow) for i in (2, 3))]
)
def test_payloads_of_the_battery_mapped(part):
    templates = [template_of(entry) for entry in COMPRESSORS[part::4]]
    fixed = {}
    for template in templates:
        if all(map(has_fixed_length, fields(template))):
            # Fields of the same lengths once.
            fixed[str(fields(template))] = template
        else:
            with pytest.raises(ValueError, match="known from shapes"):
                num_words(template)
    assert len(fixed) > len(templates) / 3
    for template in fixed.values():
        check_mapped(template, np.random.default_rng(part))


def payload_of(compressor, budget=jnp.inf):
    x = jnp.linspace(-1.0, 1.0, 40)
    context = make_context(jax.random.key(0), 0)._replace(budget_bits=budget)
    return compressor.encode(context, {"w": x}, compressor.init({"w": x}).sender)[0]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: payload_of(chain(qsgd(3), entropy_coded())), r"Coded at .* is coded"),
        (lambda: payload_of(top_k(0.3, sampled=True)), "has a count: use a compress"),
        (
            lambda: payload_of(budgeted_quantize(max_bits=3)),
            "Symbols at .* has a width",
        ),
        (lambda: Raw(jnp.zeros(3), jnp.uint32(1)), "Raw at payload has a count"),
        (
            lambda: [
                jnp.zeros(2),
                IndexSet(jnp.zeros(3, jnp.uint32), 9, jnp.uint32(1)),
            ],
            r"IndexSet at payload\[1\] has a count",
        ),
        (
            lambda: {"a": jax.ShapeDtypeStruct((3,), jnp.float6_e2m3fn)},
            r"the array at payload\['a'\] is of float6_e2m3fn: cast",
        ),
        (lambda: jax.random.key(0), "keys do not travel"),
        (lambda: Symbols(jnp.zeros(3, jnp.uint32), 2**33), "Expected width=33"),
    ],
)
def test_a_length_that_shapes_do_not_tell_is_refused(make, told):
    with pytest.raises(ValueError, match=told) as raised:
        to_words(make())
    assert "\n" not in str(raised.value)


def test_words_of_another_payload_are_refused():
    template = jax.ShapeDtypeStruct((3,), jnp.float32)
    for words in (jnp.zeros(2, jnp.uint32), jnp.zeros(3, jnp.int32)):
        with pytest.raises(ValueError, match=r"Expected uint32 \[3\]"):
            from_words(template, words)


@pytest.mark.slow
@pytest.mark.parametrize("cardinality", [2, 4, 8, 16, 256])
def test_packing_reads_and_writes_each_number_once(cardinality):
    n = 1 << 20
    like = [
        Symbols(jax.ShapeDtypeStruct((n,), jnp.uint8), cardinality),
        jax.ShapeDtypeStruct((2,), jnp.float32),
    ]
    num_bytes = n + 4 * num_words(like)
    words = jax.ShapeDtypeStruct((num_words(like),), jnp.uint32)
    back = jax.jit(lambda w: from_words(like, w)).lower(words).compile()
    for compiled in (jax.jit(to_words).lower(like).compile(), back):
        assert Program(compiled.as_text()).cost.num_bytes < 1.1 * num_bytes
