"""Whose key a compressor's messages depend on: from contexts alone, and in a round."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_comp.algorithms.fed_avg import fed_avg
from fedjax_comp.base import PyTree, Task
from tests.conformance.compressor_bounds import Entry
from tests.conformance.compressor_checks import client_of, context_of, message, square
from tests.problems import make_cohort, stack_clients

CLIENTS = 2

Sent = list[list[bytes]]
"""One list for each of two rounds: what each of two identical clients sent in it."""


def messages_of_contexts(entry: Entry) -> Sent:
    """What the contexts of two clients and two rounds make of the same numbers."""
    compressor, step, _ = client_of(entry)
    tree = message(square())
    state = compressor.init(tree)
    return [
        [_bytes(step(context_of(seed, i), tree, state)[0]) for i in range(CLIENTS)]
        for seed in (28, 29)
    ]


def messages_of_rounds(entry: Entry) -> Sent:
    """What is sent in two rounds of FedAvg from the same state.

    Every client's update is `-square()`, whatever it heard.
    """
    task = Task(
        init=lambda key: jnp.zeros(square().shape),
        loss=lambda params, examples, mask, key: jnp.sum(params * square()),
        evaluate=None,  # nobody does
    )
    algorithm = fed_avg(
        task,
        client_optimizer=optax.sgd(1.0),
        uplink=entry.make(),
        keep_messages=True,
    )
    cohort = make_cohort([1] * CLIENTS, batch_size=1)
    server, client = algorithm.init(jax.random.key(0), task.init(jax.random.key(1)))
    clients = stack_clients(client, CLIENTS)

    @jax.jit
    def payloads(key: jax.Array) -> list[jax.Array]:
        _, _, info = algorithm.round(key, server, clients, cohort)
        return jax.tree.leaves(info.messages["uplink"].payload)

    return [
        [_bytes([leaf[i] for leaf in payloads(key)]) for i in range(CLIENTS)]
        for key in jax.random.split(jax.random.key(2))
    ]


def _bytes(payload: PyTree) -> bytes:
    return b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(payload))


def check_keys(
    entry: Entry, messages_of: Callable[[Entry], Sent] = messages_of_contexts
) -> None:
    """Messages differ by client and round, by round, or not at all, as declared."""
    first, second = messages_of(entry)
    one, other = first
    match entry.message_key:
        case "client":
            assert one != other, "clients with the same noise"
            assert not {*first} & {*second}, "rounds with the same noise"
        case "round":
            assert one == other, "clients that do not share the round's noise"
            assert second[0] == second[1], "clients that do not share the round's noise"
            assert one != second[0], "rounds with the same noise"
        case None:
            assert len({*first, *second}) == 1, "noise that the table does not tell of"
