"""Gradients, data, or the whole set once: which of them costs the fewest bits.

With n parameters, D numbers an example, B examples a batch, b bits for each number of
an example and b_g for each coordinate of the gradient, a message of gradients is about
n b_g bits and one of data B D b. Data are cheaper where the model is large and batches
are small. Sending the whole set of N examples once costs N D b whatever the number of
steps, so it is cheapest as soon as the run is longer than an epoch.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_comp.algorithms.links.example_rows import values_of
from fedjax_comp.base import Compressor, PyTree, make_context
from fedjax_comp.compress.combine.leafwise import shape_of
from fedjax_comp.compress.quantize.lattice import uniform_lattice
from fedjax_comp.compress.schemes.quantizers import eden_fixed_rate
from fedjax_comp.data.federated import DataSpec
from fedjax_comp.keys import make_key
from fedjax_comp.wire.accounting import num_bits
from fedjax_comp.wire.codes.fixed_width import bit_width
from fedjax_comp.wire.fields import fields


class Advice(NamedTuple):
    """What each way costs on the uplink in all, and which is cheapest.

    Attributes:
      gradient_bits: of all clients' gradients in all steps.
      data_bits: of all clients' batches of quantized examples in all steps.
      shipping_bits: of the whole quantized data set, once.
      choice: "gradient", "data" or "shipping", the one of the fewest bits.
      reason: why, in one sentence.
    """

    gradient_bits: int
    data_bits: int
    shipping_bits: int
    choice: str
    reason: str


def advisable(
    model: PyTree | int,
    spec: DataSpec,
    *,
    batch_size: int,
    bits: int,
    steps: int = 1,
    cohort_size: int = 1,
    gradient: Compressor | None = None,
) -> Advice:
    """Which way to train costs the fewest bits from clients to server.

    All are exact message lengths, without frames and broadcasts of the model. The
    accuracy that each way reaches is not considered.

    Args:
      model: parameters (arrays or `jax.ShapeDtypeStruct`), or how many there are.
      spec: the population's.
      batch_size: B, examples of a client in a step.
      bits: of a number of data, in [1, 16], as of `uniform_lattice`.
      steps: of the whole run.
      cohort_size: clients in each step.
      gradient: compressor of the gradients, of fixed length; `eden_fixed_rate(1)`, one
        bit a coordinate, when None.

    Returns:
      The bits of each and the cheapest; of two that cost the same the simpler one:
      shipping before data before gradient.

    Raises:
      ValueError: for a number below 1, or a gradient compressor of variable length.

    >>> spec = DataSpec("mnist", 10, (28, 28, 1), 1 / 255, None, 100, 600, 60000, 10000)
    >>> advice = advisable(1_663_370, spec, batch_size=8, bits=1, steps=500)
    >>> advice.choice, advice.gradient_bits // advice.data_bits
    ('data', 262)
    """
    for name, value in (
        ("batch_size", batch_size),
        ("steps", steps),
        ("cohort_size", cohort_size),
    ):
        if value < 1:
            raise ValueError(f"Expected {name}={value} >= 1.")
    like = model
    if isinstance(model, int):
        if model < 1:
            raise ValueError(f"Expected model={model} parameters >= 1.")
        like = jax.ShapeDtypeStruct((model,), jnp.float32)
    compressor = eden_fixed_rate(1) if gradient is None else gradient
    messages = steps * cohort_size
    lattice = uniform_lattice(bits)
    a_gradient = fixed_bits_of(compressor, like)
    a_batch = examples_bits(lattice, spec, batch_size)
    share, extra = divmod(spec.num_train, spec.num_clients)
    shipping = sum(
        examples_bits(lattice, spec, size) * clients
        for size, clients in ((share, spec.num_clients - extra), (share + 1, extra))
        if size > 0
    )
    totals = {
        "shipping": shipping,
        "data": messages * a_batch,
        "gradient": messages * a_gradient,
    }
    choice = min(totals, key=lambda name: totals[name])
    return Advice(
        gradient_bits=totals["gradient"],
        data_bits=totals["data"],
        shipping_bits=shipping,
        choice=choice,
        reason=_reason(choice, a_gradient, a_batch, shipping, messages),
    )


def fixed_bits_of(compressor: Compressor, like: PyTree) -> int:
    """The length of a message of a tree, without computing one.

    Args:
      compressor: one whose messages have a fixed length.
      like: arrays or `jax.ShapeDtypeStruct`s; nothing of their values is used.

    Raises:
      ValueError: for a compressor whose messages' length depends on values.

    >>> from fedjax_comp.compress import qsgd
    >>> fixed_bits_of(qsgd(1), jax.ShapeDtypeStruct((1000,), jnp.float32))
    2032
    """
    like = jax.tree.map(shape_of, like)

    def length(tree: PyTree) -> PyTree:
        context = make_context(make_key(0), 0)
        sender = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype),
            jax.eval_shape(lambda: compressor.init(like).sender),
        )
        return num_bits(compressor.encode(context, tree, sender)[0])

    found = jax.eval_shape(length, like)
    if found.variable:
        raise ValueError(
            "Expected a compressor whose messages have a fixed length: leave "
            "entropy_coded() and counted fields out."
        )
    return found.fixed


def examples_bits(quantizer: Compressor, spec: DataSpec, count: int) -> int:
    """The length of a message of `example_link` with room for `count`, all of them new.

    Args:
      quantizer: of one example, its payload of a fixed length.
      spec: the population's.
      count: examples in the message.

    >>> spec = DataSpec("mnist", 10, (28, 28, 1), 1 / 255, None, 100, 600, 60000, 10000)
    >>> examples_bits(uniform_lattice(1), spec, 4)
    3174
    """
    one = jax.ShapeDtypeStruct(spec.input_shape, jnp.float32)
    context = jax.eval_shape(lambda: make_context(make_key(0), 0))
    payload, _ = jax.eval_shape(
        quantizer.encode, context, one, quantizer.init(one).sender
    )
    sizes = [math.prod(values_of(field).shape) for field in fields(payload)]
    each = fixed_bits_of(quantizer, one) + bit_width(spec.num_classes)
    counts = sum((count * size).bit_length() for size in (*sizes, 1))
    return count * each + counts


def _reason(
    choice: str, a_gradient: int, a_batch: int, shipping: int, messages: int
) -> str:
    match choice:
        case "shipping":
            return (
                f"the whole set is {shipping:,} bits once, and {messages:,} messages "
                f"of {min(a_batch, a_gradient):,} bits are no fewer"
            )
        case "data":
            return (
                f"a batch is {a_batch:,} bits, a gradient {a_gradient:,}, and "
                f"{messages:,} batches are fewer than the whole set"
            )
        case _:
            return (
                f"a gradient is {a_gradient:,} bits, a batch {a_batch:,}: the model is "
                "small for so many numbers of data"
            )
