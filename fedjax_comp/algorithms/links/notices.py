"""Notices and reports: small messages, sent as they are, and logged like any other."""

import jax
import jax.numpy as jnp

from fedjax_comp.base import Ends, Messages, PyTree, Traffic, make_context
from fedjax_comp.compress import identity
from fedjax_comp.wire.accounting import num_bits

LINK = identity()
"""What decodes them, for audits."""


def notices(
    key: jax.Array, code: int, spoke: jax.Array, ends: Ends
) -> tuple[Traffic, Messages]:
    """The same byte to, or from, each of several clients.

    Args:
      key: of the round.
      code: the byte, which says what is noticed.
      spoke: bool `[M]`, where it is sent.
      ends: who sends it, and to whom, `[M]`.

    Returns:
      What it costs, and the messages for an audit.

    >>> from fedjax_comp.keys import make_key
    >>> from fedjax_comp.wire.traffic import to_client, totals
    >>> told = jnp.array([True, False, True])
    >>> traffic, _ = notices(make_key(0), 1, told, to_client(jnp.arange(3)))
    >>> totals({"polls": traffic}).downlink_bytes
    2
    """
    return reports(key, jnp.full(spoke.shape[0], code, jnp.uint8), spoke, ends)


def reports(
    key: jax.Array, payload: PyTree, spoke: jax.Array, ends: Ends
) -> tuple[Traffic, Messages]:
    """A few numbers to, or from, each of several clients.

    Args:
      key: of the round.
      payload: what each is told or tells, leaves `[M, ...]`.
      spoke: bool `[M]`, where it is sent.
      ends: who sends it, and to whom, `[M]`.

    Returns:
      What it costs, and the messages for an audit.
    """
    count = spoke.shape[0]
    contexts = jax.vmap(make_context, in_axes=(None, 0))(key, jnp.arange(count))
    messages = Messages(contexts, payload, (), spoke, ends, payload)
    one = jax.tree.map(lambda x: x[0], payload)
    return Traffic(num_bits(one), spoke, ends), messages
