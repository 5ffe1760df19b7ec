"""The battery fails for noise of the wrong key or mean, and for silent overflows."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest

from fedjax_comp.base import (
    Compressor,
    Context,
    PyTree,
    make_context,
)
from fedjax_comp.compress import (
    noise,
    qsgd,
    rotate,
    terngrad,
)
from fedjax_comp.compress.combine.leafwise import ArrayCode, leafwise
from fedjax_comp.compress.quantize.scalar import Quantized, symbols_of, zigzag
from fedjax_comp.wire.fields import Raw
from tests.conformance.compressor_bounds import (
    Entry,
    exact,
    qsgd_error,
    unbiased,
)
from tests.conformance.compressor_keys import check_keys
from tests.conformance.compressor_magnitudes import check_magnitudes
from tests.conformance.compressor_statistics import SCALE_FAULT, check_errors
from tests.conformance.compressor_table import COMPRESSORS


def qsgd_entry(make) -> Entry:
    return unbiased("broken", make, *qsgd_error(3))


def with_keys(compressor: Compressor, change: Callable[[Context], Context]):
    def encode(context: Context, tree: PyTree, sender: PyTree) -> tuple[PyTree, PyTree]:
        return compressor.encode(change(context), tree, sender)

    return compressor._replace(encode=encode)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda c: c._replace(client_key=c.round_key), "clients with the same noise"),
        (lambda c: make_context(jax.random.key(0), c.rank), "rounds with the same"),
    ],
)
def test_a_key_that_clients_or_rounds_share_is_caught(change, what):
    with pytest.raises(AssertionError, match=what):
        check_keys(qsgd_entry(lambda: with_keys(qsgd(levels=3), change)))


def test_a_rotation_that_is_not_the_cohorts_is_caught():
    own = with_keys(rotate(), lambda c: c._replace(round_key=c.client_key))
    with pytest.raises(AssertionError, match="do not share"):
        check_keys(exact("broken", lambda: own, keyed="round"))
    with pytest.raises(AssertionError, match="does not tell of"):
        check_keys(exact("broken", lambda: own))


def scaled(compressor: Compressor, factor: float) -> Compressor:
    def decode(
        context: Context, payload: PyTree, receiver: PyTree
    ) -> tuple[PyTree, PyTree]:
        tree, receiver = compressor.decode(context, payload, receiver)
        return jax.tree.map(lambda x: factor * x, tree), receiver

    return compressor._replace(decode=decode)


@pytest.mark.parametrize("factor", [1 - SCALE_FAULT, 1 + SCALE_FAULT])
@pytest.mark.parametrize("name", ["terngrad", "natural_dithering", "count_sketch"])
def test_a_scale_that_is_off_by_two_percent_is_caught(name, factor):
    (entry,) = (entry for entry in COMPRESSORS if entry.name == name)
    honest = entry.make()
    with pytest.raises(AssertionError, match="bias"):
        check_errors(entry._replace(make=lambda: scaled(honest, factor)))


def test_a_bias_across_the_input_is_caught():
    """A coordinate a tenth too large, another as much too small: no scale tells."""
    turn = jnp.ones((4, 4)).at[0].set(jnp.array([1.1, 0.9, 1.0, 1.0]))

    def decode(
        context: Context, payload: PyTree, receiver: PyTree
    ) -> tuple[PyTree, PyTree]:
        tree, receiver = honest.decode(context, payload, receiver)
        return turn * tree, receiver

    honest = qsgd(levels=3)
    with pytest.raises(AssertionError, match="bias"):
        check_errors(qsgd_entry(lambda: honest._replace(decode=decode)))


def scaled_by_the_largest() -> Compressor:
    """As terngrad was: XLA multiplies by `1 / a`, which is 0 where `a > 2**126`."""

    def encode(context: Context, x: jax.Array) -> Quantized:
        largest = jnp.max(jnp.abs(x))
        divisor = jnp.where(largest == 0, 1.0, largest)
        up = noise.bernoulli_round(context.client_key, jnp.abs(x) / divisor)
        return Quantized(Raw(largest), symbols_of(zigzag(x, up), 3))

    return terngrad()._replace(encode=leafwise(ArrayCode("", encode, None)).encode)


def limited(decode_finite) -> Compressor:
    """qsgd whose norm is made finite, in one way or another."""
    honest = qsgd(levels=3)

    def decode(
        context: Context, payload: PyTree, receiver: PyTree
    ) -> tuple[PyTree, PyTree]:
        tree, receiver = honest.decode(context, payload, receiver)
        return {**tree, "matrix": decode_finite(tree["matrix"])}, receiver

    return honest._replace(decode=decode)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (scaled_by_the_largest, "off by"),
        (lambda: limited(jnp.nan_to_num), "off by"),
        (lambda: limited(lambda x: jnp.where(jnp.isfinite(x), x, 0.0)), "off by"),
        (lambda: limited(lambda x: jnp.where(x > 1e30, jnp.inf, x)), "not finite"),
    ],
    ids=["zeros", "clipped", "zeros at the receiver", "not finite too early"],
)
def test_silence_about_huge_numbers_is_caught(make, what):
    with pytest.raises(AssertionError, match=what):
        check_magnitudes(qsgd_entry(make))
