"""Notices: messages of one byte, which cost a frame and are logged like any other."""

import jax
import jax.numpy as jnp

from fedjax_comp.base import Bits, Ends, Messages, Traffic, make_context
from fedjax_comp.compress import identity

LINK = identity()
"""What decodes a notice, for audits: it is sent as it is."""


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
    count = spoke.shape[0]
    payload = jnp.full(count, code, jnp.uint8)
    contexts = jax.vmap(make_context, in_axes=(None, 0))(key, jnp.arange(count))
    messages = Messages(contexts, payload, (), spoke, ends, payload)
    return Traffic(Bits(8), spoke, ends), messages
