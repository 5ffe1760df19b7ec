"""The whole data set on the wire once: real messages, then training at the server."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp.algorithms.links.example_link import Batch, example_link
from fedjax_comp.base import (
    Algorithm,
    Bits,
    Cohort,
    Compressor,
    Examples,
    PyTree,
    RoundInfo,
    Traffic,
    make_context,
)
from fedjax_comp.data import FederatedData
from fedjax_comp.wire.accounting import message_bits, num_bits
from fedjax_comp.wire.message import from_bytes, to_bytes
from fedjax_comp.wire.traffic import to_server


class Shipment(NamedTuple):
    """What the server has once everything has arrived.

    Attributes:
      population: the same clients with their examples as decoded, in stored units.
      bits: length of each client's message; 0 for a client without examples.
    """

    population: FederatedData
    bits: tuple[int, ...]


class _Started(NamedTuple):
    inner: PyTree
    started: jax.Array


def ship(key: jax.Array, data: FederatedData, quantizer: Compressor) -> Shipment:
    """Encodes each client's examples, writes the bytes, and decodes those.

    Args:
      key: of the messages' contexts.
      data: the population.
      quantizer: of one example's `x`, scaled by the data's scale.

    Returns:
      The shipment. What the server trains on was read from the bytes alone.
    """
    spec = data.spec
    link = example_link(quantizer, num_classes=spec.num_classes)
    encode = jax.jit(lambda context, batch: link.encode(context, batch, ())[0])
    decode = jax.jit(lambda context, payload: link.decode(context, payload, ())[0])
    offsets, order = np.asarray(data.offsets), np.asarray(data.order)
    received: list[Examples] = []
    bits = []
    for client in range(spec.num_clients):
        rows = order[offsets[client] : offsets[client + 1]]
        if not rows.size:
            bits.append(0)
            continue
        own = jax.tree.map(lambda leaf, rows=rows: leaf[rows], data.examples)
        scaled = Examples(own.x.astype(jnp.float32) * spec.scale, own.y)
        count = rows.size
        batch = Batch(
            scaled,
            ids=jnp.zeros(count, jnp.int32),
            sent=jnp.ones(count, bool),
            exponents=jnp.zeros(count, jnp.uint8),
            drawn=jnp.int32(count),
        )
        context = make_context(key, client)
        payload = encode(context, batch)
        template = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), payload
        )
        decoded = decode(context, from_bytes(to_bytes(payload), template))
        bits.append(message_bits(num_bits(payload)))
        received.append(
            Examples(
                decoded.examples.x / spec.scale, decoded.examples.y.astype(own.y.dtype)
            )
        )
    examples = jax.tree.map(lambda *parts: jnp.concatenate(parts), *received)
    arrived = data._replace(
        examples=examples, order=jnp.arange(order.size, dtype=jnp.int32)
    )
    return Shipment(arrived, tuple(bits))


def shipped_first(algorithm: Algorithm, bits: Sequence[int]) -> Algorithm:
    """Training at the server, with the data's messages counted in the first round.

    Args:
      algorithm: what trains, on examples that are there already.
      bits: length of each client's message, all clients in order.

    Returns:
      An `Algorithm` in whose first round every client with examples speaks; nothing is
      sent either way afterwards.
    """
    lengths = jnp.asarray(np.asarray(bits, np.uint32))

    def init(key: jax.Array, params: PyTree) -> tuple[PyTree, PyTree]:
        server, client = algorithm.init(key, params)
        return _Started(server, jnp.asarray(False)), client

    def run_round(
        key: jax.Array, server: _Started, clients: PyTree, cohort: Cohort
    ) -> tuple[PyTree, PyTree, RoundInfo]:
        inner, clients, info = algorithm.round(key, server.inner, clients, cohort)
        speaks = (lengths > 0) & ~server.started
        ends = to_server(jnp.arange(lengths.shape[0]))
        shipped = Traffic(Bits(0, (lengths,)), speaks, ends)
        info = info._replace(traffic={"examples": shipped})
        return _Started(inner, jnp.asarray(True)), clients, info

    return Algorithm(init, run_round, lambda server: algorithm.params(server.inner))
