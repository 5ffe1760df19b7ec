"""FedPer: some layers are each client's own, and never leave it.

Arivazhagan, Aggarwal, Singh and Choudhary 2019, "Federated learning with
personalization layers" (arXiv 1912.00818), algorithms 1 and 2: all layers are trained
together, and only those of the base are averaged. With `personal="batch_stats"` or the
names of normalisations it is FedBN, Li, Jiang, Zhang, Kamp and Dou 2021 (arXiv
2102.07623). Compressed messages and a server optimizer are ours.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_comp.algorithms.client_update import Sent, Summand, round_info, send
from fedjax_comp.algorithms.links.given import (
    given,
    given_execution,
    given_server_optimizer,
)
from fedjax_comp.base import (
    Algorithm,
    ClientBatches,
    Cohort,
    Compressor,
    Examples,
    Execution,
    LinkState,
    PyTree,
    RoundInfo,
    Task,
    make_context,
)
from fedjax_comp.client.sgd import local_sgd
from fedjax_comp.server.aggregate import weighted_mean
from fedjax_comp.server.broadcast import broadcast, partly_heard
from fedjax_comp.server.update import Model, step_towards
from fedjax_comp.tree import all_finite, where

Leaves = tuple[jax.Array, ...]


class ServerState(NamedTuple):
    """The server's model, personal layers as they began, and its downlink's memory."""

    model: Model
    downlink: LinkState


class ClientState(NamedTuple):
    """A client's own layers, leaf by leaf, and the memory of its uplink."""

    own: Leaves
    uplink: LinkState


def fed_per(
    task: Task,
    *,
    client_optimizer: optax.GradientTransformation,
    personal: str | Sequence[str],
    server_optimizer: optax.GradientTransformation | None = None,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
    execution: Execution | None = None,
    keep_messages: bool = False,
) -> Algorithm:
    """Federated averaging of some layers; the others stay with each client.

    With `s` the layers that are shared and `p_i` client i's own, trained together:

        (s_i, p_i) <- optimizer steps on client i's loss from (s, p_i)
        s <- s + sum_i n_i C(s_i - s) / sum_i n_i

    Args:
      task: the model and its loss.
      client_optimizer: the local optimizer, started afresh each round.
      personal: names of layers, such as "Dense_1": every leaf with one of them in its
        path is a client's own. "batch_stats" are the running statistics.
      server_optimizer: `optax.sgd(1.0)` when None.
      uplink: compressor of what changed of the shared leaves; `identity()` when None.
      downlink: compressor of the shared leaves; its receiver has no memory.
      execution: how a cohort is run; `scanned()` when None.
      keep_messages: return every message in `RoundInfo.messages`, for an audit.

    Returns:
      An `Algorithm` of `ServerState` and `ClientState`. In the server's model personal
      layers keep their initial values, which nobody trained. Evaluate the model of each
      client instead, `personal(server, client)` (`--evaluate_clients` of
      `python -m experiments.fed_avg`).

    Raises:
      ValueError: from `init`, for a name that is nowhere in the model, where nothing is
        left to share, and for a downlink whose receiver has memory.

    >>> from fedjax_comp.models import classification, mlp
    >>> task = classification(mlp(32)(10), input_shape=(8, 8, 1))
    >>> algorithm = fed_per(task, client_optimizer=optax.sgd(0.1), personal="Dense_1")
    >>> _, client = algorithm.init(jax.random.key(0), task.init(jax.random.key(1)))
    >>> [x.shape for x in client.own]
    [(10,), (32, 10)]
    """
    names = (personal,) if isinstance(personal, str) else tuple(personal)
    update_server = given_server_optimizer(server_optimizer)
    up = given("uplink", uplink)
    down = given("downlink", downlink)
    run_cohort = given_execution(execution)
    train = local_sgd(task, client_optimizer)

    def init(key: jax.Array, params: PyTree) -> tuple[ServerState, ClientState]:
        del key
        _check(names, params)
        shared, own = _apart(names, params)
        model = Model(params, update_server.init(params))
        server = ServerState(model, partly_heard(down, shared))
        return server, ClientState(own, up.init(shared))

    def run_round(
        key: jax.Array, server: ServerState, clients: ClientState, cohort: Cohort
    ) -> tuple[ServerState, ClientState, RoundInfo]:
        down_key, up_key = jax.random.split(key)
        params = server.model.params
        shared, unused = _apart(names, params)
        said = broadcast(down, make_context(down_key, 0), shared, server.downlink)

        def client_fn(
            told: tuple[Leaves, jax.Array, Examples],
            client: tuple[ClientBatches, ClientState, jax.Array],
        ) -> tuple[Summand, tuple[ClientState, Sent]]:
            received, up_key, examples = told
            batches, state, rank = client
            start = _joined(names, params, received, state.own)
            local, info = train(start, examples, batches)
            changed, own = _apart(names, local)
            summand, (link, sent) = send(
                up,
                make_context(up_key, batches.client_id, rank),
                optax.tree.sub(changed, received),
                state.uplink,
                batches=batches,
                info=info,
                keep_message=keep_messages,
            )
            counted = (summand.update.weight > 0) & all_finite(own)
            return summand, (ClientState(where(counted, own, state.own), link), sent)

        ids = cohort.clients.client_id
        ranks = jnp.arange(ids.shape[0], dtype=jnp.int32)
        total, (states, sent) = run_cohort(client_fn)(
            (said.received, up_key, cohort.examples), (cohort.clients, clients, ranks)
        )
        still = optax.tree.zeros_like(unused)
        mean = _joined(names, params, weighted_mean(total.update), still)
        model, refused = step_towards(
            update_server, server.model, mean, total.update.weight > 0
        )
        info = round_info(
            total,
            sent,
            said.traffic(cohort.clients.active, ids),
            said.messages(cohort.clients.active.any()) if keep_messages else None,
            refused,
        )
        link = said.link_after(server.downlink, cohort.clients.active)
        return ServerState(model, link), states, info

    def model_of(server: ServerState, client: ClientState) -> PyTree:
        params = server.model.params
        shared, _ = _apart(names, params)
        return _joined(names, params, shared, client.own)

    return Algorithm(
        init, run_round, params=lambda server: server.model.params, personal=model_of
    )


def _is_own(names: Sequence[str], path: jax.tree_util.KeyPath) -> bool:
    return any(jax.tree_util.keystr((part,), simple=True) in names for part in path)


def _apart(names: Sequence[str], params: PyTree) -> tuple[Leaves, Leaves]:
    """Leaves that are shared, and those that are a client's own."""
    leaves = jax.tree.leaves_with_path(params)
    own = [_is_own(names, path) for path, _ in leaves]
    return (
        tuple(x for (_, x), mine in zip(leaves, own, strict=True) if not mine),
        tuple(x for (_, x), mine in zip(leaves, own, strict=True) if mine),
    )


def _joined(names: Sequence[str], like: PyTree, shared: Leaves, own: Leaves) -> PyTree:
    """What `_apart` took apart."""
    mine, others = iter(own), iter(shared)
    return jax.tree.map_with_path(
        lambda path, _: next(mine) if _is_own(names, path) else next(others), like
    )


def _check(names: Sequence[str], params: PyTree) -> None:
    paths = [path for path, _ in jax.tree.leaves_with_path(params)]
    parts = {jax.tree_util.keystr((part,), simple=True) for at in paths for part in at}
    for name in names:
        if name not in parts:
            raise ValueError(
                f"Expected personal={name!r} to be a layer of the model; it has "
                f"{', '.join(sorted(parts))}."
            )
    if not names or all(_is_own(names, path) for path in paths):
        raise ValueError(
            f"Expected personal={names!r} to leave a layer that is shared, and to name "
            "one that is not."
        )
