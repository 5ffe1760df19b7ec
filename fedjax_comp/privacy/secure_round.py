"""One round of compressed updates under secure aggregation, from trees to their sum.

Bonawitz et al., "Practical secure aggregation for privacy-preserving machine learning",
2017, around the compressors whose messages add (`fedjax_comp.privacy.qualify`).
"""

import operator
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from fedjax_comp.base import Compressor, LinkState, PyTree, make_context
from fedjax_comp.privacy.integers import (
    Grid,
    bits_for_sum,
    from_integers,
    is_finite,
    largest_magnitude,
    to_integers,
)
from fedjax_comp.privacy.masks import RandomBytes
from fedjax_comp.privacy.messages import secure_setting
from fedjax_comp.privacy.qualify import qualify
from fedjax_comp.privacy.secure_sum import SecureTraffic, Step, secure_sum

ROUNDING = 1 << 16
"""Folded into a client's key for rounding floats; stages fold small numbers."""

Vector = npt.NDArray[np.int64]


class SecureRound(NamedTuple):
    """What a secure round leaves behind.

    Attributes:
      total: the sum of the decoded updates of `summed`, a tree as one client's.
      summed: the clients in it, ascending.
      integers: int64 `[n]`, the sum that the server saw, before it decoded it.
      bits: of the modulus.
      senders: every client's memory; as it was for those not in the sum.
      traffic: bytes by step and client.
    """

    total: PyTree
    summed: tuple[int, ...]
    integers: Vector
    bits: int
    senders: tuple[PyTree, ...]
    traffic: SecureTraffic


def secure_round(
    random_bytes: RandomBytes,
    round_key: jax.Array,
    compressor: Compressor,
    updates: Sequence[PyTree],
    *,
    tag: bytes,
    grid: Grid | None = None,
    threshold: int | None = None,
    drops: Mapping[int, Step] | None = None,
    senders: Sequence[PyTree] | None = None,
) -> SecureRound:
    """Compresses, masks, sums and decodes one cohort's updates.

    Updates are summed with equal weights: a client with weight `w` sends `w` times its
    own, and `w` itself as one more leaf when the server is to divide by the sum. A
    client whose payload is not finite leaves before it would send it.

    Args:
      random_bytes: `os.urandom`, for keys, seeds and shares.
      round_key: the round's, shared by the cohort.
      compressor: one that qualifies.
      updates: `C` trees of one structure.
      tag: names the run and round: no two rounds may have the same.
      grid: on which floats are rounded; not needed without floats.
      threshold: how many must stay; `2C // 3 + 1` when None.
      drops: clients and the first step at which they are gone.
      senders: the clients' memories; fresh ones when None.

    Returns:
      A `SecureRound`; its `total` is the sum of what the clients' integers stand for,
      exactly but for the rounding of floats in `decode`.

    Raises:
      ValueError: when the compressor does not qualify, with the reason; when there is
        no grid for floats, or only one update.
      TooFewParties: when fewer than the threshold are left.

    >>> import os, jax.numpy as jnp
    >>> from fedjax_comp.compress import common_range
    >>> updates = [jnp.array([1.0, -2.0]), jnp.array([1.0, 1.0]), jnp.ones(2)]
    >>> uplink = common_range(levels=5, limit=2.0)
    >>> done = secure_round(
    ...     os.urandom, jax.random.key(0), uplink, updates, tag=b"round 0",
    ...     threshold=2, drops={2: Step.SHARE},
    ... )
    >>> done.total.tolist(), done.summed, done.bits
    ([2.0, -1.0], (0, 1), 4)
    """
    parties = len(updates)
    if parties < 2:
        raise ValueError(
            f"Expected at least 2 updates to hide in a sum, got {parties}."
        )
    template = qualify(compressor, updates[0])
    first: LinkState = compressor.init(updates[0])
    memories = [first.sender] * parties if senders is None else list(senders)
    bits = bits_for_sum(parties, largest_magnitude(template, grid))

    def encode(
        args: tuple[jax.Array, PyTree, PyTree],
    ) -> tuple[jax.Array, jax.Array, PyTree]:
        client, update, memory = args
        context = make_context(round_key, client)
        payload, sender = compressor.encode(context, update, memory)
        rounding_key = jax.random.fold_in(context.client_key, ROUNDING)
        vector = to_integers(rounding_key, payload, grid)
        return vector, is_finite(payload), sender

    stacked = [
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
        for trees in (updates, memories)
    ]
    numbers, finite, remembered = jax.lax.map(encode, (jnp.arange(parties), *stacked))
    vectors = list(np.asarray(numbers).astype(np.int64))
    leaves_at = dict(drops or {})
    for client in np.flatnonzero(~np.asarray(finite)).tolist():
        leaves_at[client] = min(Step.MASK, leaves_at.get(client, Step.MASK))

    setting = secure_setting(
        parties=parties,
        n=vectors[0].size,
        bits=bits,
        tag=tag,
        threshold=threshold,
    )
    result = secure_sum(random_bytes, setting, vectors, drops=leaves_at)
    for client in result.summed:
        memories[client] = jax.tree.map(operator.itemgetter(client), remembered)
    summed_payload = from_integers(result.total, template, grid)
    # Rank and key of client 0: a decoding that used them would not have qualified.
    total, _ = compressor.decode(
        make_context(round_key, 0), summed_payload, first.receiver
    )
    return SecureRound(
        total, result.summed, result.total, bits, tuple(memories), result.traffic
    )
