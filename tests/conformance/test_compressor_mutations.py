"""The battery fails for compressors that are broken on purpose, each in one way."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from fedjax_comp.base import (
    Bits,
    Compressor,
    Context,
    LinkState,
    PyTree,
)
from fedjax_comp.compress import (
    chain,
    entropy_coded,
    error_feedback,
    qsgd,
    stochastic_quantize,
    top_k,
)
from fedjax_comp.compress.combine.leafwise import ArrayCode, leafwise
from fedjax_comp.compress.quantize.scalar import Quantized
from fedjax_comp.compress.sparsify.top_k import Sparse
from fedjax_comp.wire.codes import rans
from fedjax_comp.wire.fields import Raw, Symbols
from tests.conformance import compressor_checks as checks
from tests.conformance.compressor_bounds import (
    Entry,
    contractive,
    kept,
    qsgd_error,
    unbiased,
)
from tests.conformance.compressor_statistics import check_errors


def mapped_payload(compressor: Compressor, change) -> Compressor:
    """`compressor` with every part of its `Lifted` payload changed by `change`."""

    def encode(context: Context, tree: PyTree, sender: PyTree) -> tuple[PyTree, PyTree]:
        payload, sender = compressor.encode(context, tree, sender)
        parts = tuple(
            part if like is None else change(part)
            for part, like in zip(payload.parts, payload.shapes, strict=True)
        )
        return dataclasses.replace(payload, parts=parts), sender

    return compressor._replace(encode=encode)


def top_k_entry(make) -> Entry:
    return contractive("broken", make, lambda n: 1 - kept(n, 0.3) / n)


def qsgd_entry(make, levels: int = 3) -> Entry:
    return unbiased("broken", make, *qsgd_error(levels))


def test_a_cardinality_too_small_is_caught():
    def shrink(part: Quantized) -> Quantized:
        # 7 symbols take 3 bits, 4 take one too few.
        return dataclasses.replace(part, symbols=Symbols(part.symbols.values, 4))

    with pytest.raises(AssertionError, match="no message"):
        checks.check_wire(qsgd_entry(lambda: mapped_payload(qsgd(levels=3), shrink)))


def test_an_index_bound_too_small_is_caught():
    def shrink(part: Sparse) -> Sparse:
        indices = dataclasses.replace(part.indices, bound=part.indices.bound // 2)
        return dataclasses.replace(part, indices=indices)

    with pytest.raises(AssertionError, match="no message"):
        checks.check_wire(top_k_entry(lambda: mapped_payload(top_k(0.3), shrink)))


def test_a_code_that_declares_one_bit_too_few_is_caught():
    honest = rans()

    def one_less(field: Symbols) -> Bits:
        bits = honest.num_bits(field)
        return dataclasses.replace(bits, fixed=bits.fixed - 1)

    cheat = honest._replace(num_bits=one_less)
    with pytest.raises(AssertionError, match="bits declared"):
        checks.check_wire(
            qsgd_entry(lambda: chain(qsgd(levels=3), entropy_coded(symbols=cheat)))
        )


def test_a_decode_that_peeks_at_the_sender_is_caught():
    def peeking() -> Compressor:
        honest, seen = top_k(0.3), []

        def encode(
            context: Context, tree: PyTree, sender: PyTree
        ) -> tuple[PyTree, PyTree]:
            seen[:] = [tree]
            return honest.encode(context, tree, sender)

        def decode(
            context: Context, payload: PyTree, receiver: PyTree
        ) -> tuple[PyTree, PyTree]:
            # Falls back on the payload where there is nothing to peek at.
            if seen:
                return seen[0], receiver
            return honest.decode(context, payload, receiver)

        return Compressor(honest.init, encode, decode)

    with pytest.raises(AssertionError, match="another program"):
        checks.check_wire(top_k_entry(peeking))


def test_data_hidden_in_the_treedef_is_caught():
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass(frozen=True)
    class Smuggled:
        values: tuple[float, ...] = dataclasses.field(metadata={"static": True})

    smuggler = leafwise(
        ArrayCode(
            "smuggler",
            encode=lambda context, x: Smuggled(tuple(x.ravel().tolist())),
            decode=lambda context, payload, like: jnp.asarray(
                payload.values, like.dtype
            ).reshape(like.shape),
        )
    )
    with pytest.raises(jax.errors.ConcretizationTypeError):
        checks.check_wire(top_k_entry(lambda: smuggler))


def test_private_noise_that_decode_repeats_with_another_key_is_caught():
    def shifted() -> Compressor:
        """Subtractive dither of which the two ends use different keys."""

        def dither(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
            return jax.random.uniform(key, shape) - 0.5

        return leafwise(
            ArrayCode(
                "shifted",
                encode=lambda context, x: Raw(
                    x.astype(jnp.float32) + dither(context.client_key, x.shape)
                ),
                decode=lambda context, payload, like: (
                    payload.values - dither(context.round_key, like.shape)
                ).astype(like.dtype),
            )
        )

    entry = unbiased("broken", shifted, lambda n: 0.0, lambda n: 0.0)
    with pytest.raises(AssertionError):
        check_errors(entry)


def test_a_biased_quantizer_is_caught():
    levels = 3

    def nearest() -> Compressor:
        honest = qsgd(levels=levels)

        def encode(context: Context, x: jax.Array) -> Quantized:
            norm = jnp.linalg.norm(x.astype(jnp.float32).ravel())
            q = jnp.round(levels * x.astype(jnp.float32) / norm)
            zigzag = jnp.where(q < 0, -2 * q - 1, 2 * q).astype(jnp.uint8)
            return Quantized(Raw(norm), Symbols(zigzag, 2 * levels + 1))

        def encode_tree(
            context: Context, tree: PyTree, sender: PyTree
        ) -> tuple[PyTree, PyTree]:
            payload, sender = honest.encode(context, tree, sender)
            return dataclasses.replace(payload, parts=(encode(context, tree),)), sender

        return honest._replace(encode=encode_tree)

    # Its error is within QSGD's bound: only the mean tells.
    with pytest.raises(AssertionError, match="bias"):
        check_errors(qsgd_entry(nearest))


def test_a_bias_of_a_few_percent_is_caught():
    def shrunk() -> Compressor:
        def shrink(part: Quantized) -> Quantized:
            return dataclasses.replace(part, scale=Raw(0.9 * part.scale.values))

        return mapped_payload(qsgd(levels=7), shrink)

    with pytest.raises(AssertionError, match="bias"):
        check_errors(qsgd_entry(shrunk, levels=7))


def test_an_error_above_the_declared_one_is_caught():
    entry = contractive("broken", lambda: top_k(0.2), lambda n: 1 - kept(n, 0.3) / n)
    with pytest.raises(AssertionError):
        check_errors(entry)


def test_noise_shared_by_all_clients_is_caught():
    honest = qsgd(levels=3)

    def encode(context: Context, tree: PyTree, sender: PyTree) -> tuple[PyTree, PyTree]:
        shared = context._replace(client_key=context.round_key)
        return honest.encode(shared, tree, sender)

    broken = honest._replace(encode=encode)
    with pytest.raises(AssertionError, match="same noise"):
        checks.check_draws(qsgd_entry(lambda: broken))


def test_a_lost_memory_is_caught():
    def forgetful() -> Compressor:
        honest = error_feedback(top_k(0.3))

        def encode(
            context: Context, tree: PyTree, sender: PyTree
        ) -> tuple[PyTree, PyTree]:
            return honest.encode(context, tree, sender)[0], sender

        return honest._replace(encode=encode)

    with pytest.raises(AssertionError):
        checks.check_memory(top_k_entry(forgetful))


def test_a_state_that_changes_its_kind_is_caught():
    honest = top_k(0.3)

    def init(like: PyTree) -> LinkState:
        return LinkState(sender=0, receiver=())

    def encode(context: Context, tree: PyTree, sender: PyTree) -> tuple[PyTree, PyTree]:
        return honest.encode(context, tree, ())[0], jnp.ones(2)

    broken = Compressor(init, encode, honest.decode)
    with pytest.raises(AssertionError, match="traces"):
        checks.check_one_trace(top_k_entry(lambda: broken))


def test_nan_from_an_all_zero_leaf_is_caught():
    def fragile() -> Compressor:
        return leafwise(
            ArrayCode(
                "fragile",
                encode=lambda context, x: (
                    Raw(x / jnp.max(jnp.abs(x))),
                    Raw(jnp.max(jnp.abs(x))),
                ),
                decode=lambda context, payload, like: (
                    payload[0].values * payload[1].values
                ),
            )
        )

    with pytest.raises(AssertionError, match="not finite"):
        checks.check_leaves(top_k_entry(fragile))


def test_a_nan_that_decodes_to_sound_numbers_is_caught():
    silent = leafwise(
        ArrayCode(
            "silent",
            encode=lambda context, x: Raw(jnp.nan_to_num(x)),
            decode=lambda context, payload, like: payload.values,
        )
    )

    with pytest.raises(AssertionError, match="NaN at"):
        checks.check_broken(top_k_entry(lambda: silent))


def test_a_dtype_that_does_not_come_back_is_caught():
    quantizer = stochastic_quantize(levels=4)

    def decode(
        context: Context, payload: PyTree, receiver: PyTree
    ) -> tuple[PyTree, PyTree]:
        tree, receiver = quantizer.decode(context, payload, receiver)
        return jax.tree.map(lambda x: x.astype(jnp.float32), tree), receiver

    with pytest.raises(AssertionError):
        checks.check_leaves(top_k_entry(lambda: quantizer._replace(decode=decode)))
