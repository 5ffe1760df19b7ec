"""Algorithms made of algorithms.

admitted       only clients that the host allows take part
gathered       there is no server: every client hears all others
unsent         nothing is sent: learner and server are one
without_used   messages are kept for a log, the trees decoded from them are not
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp import checks
from fedjax_comp.base import (
    EVERYONE,
    MODELS_TOLD,
    UPDATES_SENT,
    Algorithm,
    Bits,
    Cohort,
    Ends,
    Observed,
    PyTree,
    RoundInfo,
    Traffic,
)


class Present(NamedTuple):
    """A client's state with whether it may take part.

    Attributes:
      allowed: bool scalar.
      inner: the algorithm's own.
    """

    allowed: jax.Array
    inner: PyTree


def admitted(algorithm: Algorithm) -> Algorithm:
    """The same algorithm, in which only clients that are allowed take part.

    Who is allowed is an array among the clients' states: the host writes it between two
    rounds (`admit`) and nothing is compiled anew.

    Args:
      algorithm: any.

    Returns:
      An `Algorithm` whose client state is `Present`; everyone is allowed at first.
    """

    def init(key: jax.Array, params: PyTree) -> tuple[PyTree, PyTree]:
        server, client = algorithm.init(key, params)
        return server, Present(jnp.asarray(True), client)

    def run_round(
        key: jax.Array, server: PyTree, clients: Present, cohort: Cohort
    ) -> tuple[PyTree, PyTree, RoundInfo]:
        active = cohort.clients.active & clients.allowed
        own = cohort._replace(clients=cohort.clients._replace(active=active))
        server, inner, info = algorithm.round(key, server, clients.inner, own)
        return server, Present(clients.allowed, inner), info

    own = algorithm.personal
    return Algorithm(
        init,
        run_round,
        algorithm.params,
        None if own is None else lambda server, client: own(server, client.inner),
    )


def admit(states: Present, allowed: np.ndarray) -> Present:
    """The same states, with who may take part in the next round, bool `[K]`.

    >>> admit(Present(jnp.ones(2, bool), ()), np.array([True, False])).allowed.tolist()
    [True, False]
    """
    return states._replace(allowed=jnp.asarray(allowed, bool))


def unsent(algorithm: Algorithm) -> Algorithm:
    """The same algorithm where clients and server are in one place: nothing is sent.

    Args:
      algorithm: any; what it learns is not changed.

    Returns:
      An `Algorithm` whose rounds have neither traffic nor messages.
    """

    def run_round(
        key: jax.Array, server: PyTree, clients: PyTree, cohort: Cohort
    ) -> tuple[PyTree, PyTree, RoundInfo]:
        server, clients, info = algorithm.round(key, server, clients, cohort)
        return server, clients, info._replace(traffic={}, messages={})

    return algorithm._replace(round=run_round)


def gathered(algorithm: Algorithm, *, population: int) -> Algorithm:
    """The same algorithm without a server: what one client sends, all others hear.

    As in an all-gather, every client receives all messages of a round and takes the
    server's step itself. Nothing is lost on a downlink. A message counts `K - 1` times
    for its sender and once for each receiver.

    Args:
      algorithm: its clients send "uplink" messages; its server sends its model as it
        is, and these messages are left out.
      population: `K`; all of them must be in every round, and hear the others even
        when they are not active.

    Returns:
      An `Algorithm` with "uplink" traffic from client to client, `[C * (C - 1)]`. The
      initial model follows from a seed that all know.

    Raises:
      ValueError: for a `population` below two; from `round` for another cohort, and for
        an algorithm with other kinds of messages.
    """
    checks.integer("population", population, minimum=2)

    def run_round(
        key: jax.Array, server: PyTree, clients: PyTree, cohort: Cohort
    ) -> tuple[PyTree, PyTree, RoundInfo]:
        ids = cohort.clients.client_id
        if ids.shape[0] != population:
            raise ValueError(
                f"Expected a cohort of population={population}, got {ids.shape[0]}: "
                "who is not in a round would miss what the others said."
            )
        server, clients, info = algorithm.round(key, server, clients, cohort)
        if set(info.traffic) != {"uplink", "downlink"}:
            raise ValueError(
                f"Expected uplink and downlink alone in gathered(), got "
                f"{', '.join(info.traffic)}."
            )
        sent = info.traffic["uplink"]
        others = jnp.stack([jnp.roll(ids, -i) for i in range(1, population)])

        def to_others(x: jax.Array) -> jax.Array:
            return jnp.broadcast_to(x, others.shape).reshape(-1)

        bits = Bits(sent.bits.fixed, tuple(map(to_others, sent.bits.variable)))
        ends = Ends(to_others(sent.ends.sender), others.reshape(-1))
        traffic = {"uplink": Traffic(bits, to_others(sent.spoke), ends)}
        messages = {
            name: x._replace(
                ends=x.ends._replace(receiver=jnp.full_like(x.ends.receiver, EVERYONE))
            )
            for name, x in info.messages.items()
            if name == "uplink"
        }
        observed = {
            UPDATES_SENT: Observed(sent.spoke.sum(dtype=jnp.float32)),
            MODELS_TOLD: Observed(
                info.traffic["downlink"].spoke.sum(dtype=jnp.float32)
            ),
        }
        return (
            server,
            clients,
            info._replace(
                traffic=traffic,
                messages=messages,
                observed={**info.observed, **observed},
            ),
        )

    return algorithm._replace(round=run_round)


def without_used(algorithm: Algorithm) -> Algorithm:
    """The same algorithm, which keeps its messages without what was decoded of them.

    A log needs the messages alone, and the decoded trees of a cohort take memory.

    Args:
      algorithm: any.

    Returns:
      An `Algorithm` whose `Messages.used` are `()`.
    """

    def run_round(
        key: jax.Array, server: PyTree, clients: PyTree, cohort: Cohort
    ) -> tuple[PyTree, PyTree, RoundInfo]:
        server, clients, info = algorithm.round(key, server, clients, cohort)
        kept = {name: x._replace(used=()) for name, x in info.messages.items()}
        return server, clients, info._replace(messages=kept)

    return algorithm._replace(round=run_round)
