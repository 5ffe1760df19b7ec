"""Algorithms made of algorithms.

admitted       only clients that the host allows take part
unsent         nothing is sent: learner and server are one
without_used   what was sent is kept for a log, what was used of it is not
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp.base import Algorithm, Cohort, PyTree, RoundInfo


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


def without_used(algorithm: Algorithm) -> Algorithm:
    """The same algorithm, which does not keep what it used of its messages.

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
