"""FedAvg's shape of a round, for algorithms that differ in two functions.

The server broadcasts its model to a cohort, every client trains from what it decodes
and sends the difference, and the server steps along the mean:

    hear w' -> train to w_i -> send C(w_i - w') -> step(w, mean of scale_i C(w_i - w'))

An algorithm gives the rest: how clients train, what else is added up over them, and the
server's step (see `fed_nova.py` and `fed_exp.py`). This module handles keys, links and
their memory, clients that are silent or broken, messages for an audit, and steps to
numbers that are not finite. An algorithm whose clients remember more than their link
does, or send something else, is written out in full (`scaffold.py`).
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_comp import checks
from fedjax_comp.algorithms.client_update import (
    Sent,
    Start,
    Summand,
    round_info,
    update_and_send,
)
from fedjax_comp.algorithms.links.given import given, given_execution
from fedjax_comp.base import (
    Algorithm,
    ClientBatches,
    Cohort,
    Compressor,
    Examples,
    Execution,
    LinkState,
    Observed,
    PyTree,
    RoundInfo,
    make_context,
)
from fedjax_comp.client.sgd import LocalInfo
from fedjax_comp.server.aggregate import weighted_mean
from fedjax_comp.server.broadcast import broadcast, partly_heard
from fedjax_comp.server.update import averaged_statistics
from fedjax_comp.tree import all_finite, where


class Server(NamedTuple):
    """What the server keeps.

    Attributes:
      params: the model.
      memory: the algorithm's own, `()` for none.
      downlink: the memory of its link to all.
    """

    params: PyTree
    memory: PyTree
    downlink: LinkState


class Step(NamedTuple):
    """The result of a server's step.

    Attributes:
      params: the model after it.
      memory: what the algorithm remembers after it.
      observed: what is to be observed of it, by name.
    """

    params: PyTree
    memory: PyTree = ()
    observed: Mapping[str, Observed] = {}


def _nothing(params: PyTree) -> PyTree:
    del params
    return ()


def synchronous(
    train: Callable[[PyTree, Examples, ClientBatches], tuple[PyTree, LocalInfo]],
    step: Callable[[PyTree, PyTree, PyTree, PyTree], Step],
    *,
    scale: Callable[[ClientBatches], jax.Array] | None = None,
    beside: Callable[[Summand, ClientBatches], PyTree] | None = None,
    memory: Callable[[PyTree], PyTree] = _nothing,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
    execution: Execution | None = None,
    keep_messages: bool = False,
) -> Algorithm:
    """An `Algorithm` made of local training and a server's step.

    Args:
      train: `(w', examples, batches) -> (w_i, LocalInfo)`, such as `local_sgd`.
      step: `(params, memory, mean, beside) -> Step`. `mean` is that of the decoded
        updates, by shares of examples, in float32 at least, and zeros when nobody
        counted; `beside` the sum over the cohort. A step to what is not finite is not
        taken, and its round counts everyone as dropped; nor is one when nobody counted.
        Running statistics are averaged, whatever the step makes of them.
      scale: `(batches) -> float32 scalar` that multiplies a client's decoded update,
        and not its weight; nothing when None.
      beside: `(summand, batches) -> tree` of what else is added up. `summand.update` is
        the client's decoded and scaled update times its weight, and the weight: 0 for a
        client that does not count, which should then add zeros
        (`server.aggregate.weighted`). The update alone is
        `weighted_mean(summand.update)`.
      memory: `(params) -> ` what the server remembers at first.
      uplink: compressor of the clients' updates; `identity()` when None.
      downlink: compressor of the server's model; `identity()` when None.
      execution: how a cohort is run; `scanned()` when None.
      keep_messages: return every message in `RoundInfo.messages`, for an audit.

    Returns:
      An `Algorithm` of `Server` and, per client, the uplink's `LinkState`.

    Raises:
      ValueError: from `init` for a downlink whose receiver has memory, and with `scale`
        for a model with running statistics.

    Example: federated averaging.
      >>> import optax
      >>> from fedjax_comp.client.sgd import local_sgd
      >>> from fedjax_comp.keys import make_key
      >>> from fedjax_comp.models import classification, linear
      >>> task = classification(linear()(num_classes=10), input_shape=(8, 8, 1))
      >>> def step(params, memory, mean, beside):
      ...     return Step(optax.tree.add(params, mean))
      >>> algorithm = synchronous(local_sgd(task, optax.sgd(0.1)), step)
      >>> server, _ = algorithm.init(make_key(0), task.init(make_key(1)))
      >>> sum(x.size for x in jax.tree.leaves(algorithm.params(server)))
      650
    """
    up = given("uplink", uplink)
    down = given("downlink", downlink)
    run_cohort = given_execution(execution)
    update = update_and_send(train, up, keep_messages=keep_messages)

    def init(key: jax.Array, params: PyTree) -> tuple[Server, LinkState]:
        del key
        if scale is not None:
            checks.gradients_alone("scaled updates", params)
        link = partly_heard(down, params)
        return Server(params, memory(params), link), up.init(params)

    def client_fn(
        shared: tuple[Start, Examples],
        client: tuple[ClientBatches, LinkState, jax.Array],
    ) -> tuple[tuple[Summand, PyTree], tuple[LinkState, Sent]]:
        start, examples = shared
        batches, link, rank = client
        times = None if scale is None else scale(batches)
        summand, (link, sent) = update(start, examples, batches, link, rank, times)
        also = () if beside is None else beside(summand, batches)
        return (summand, also), (link, sent)

    def run_round(
        key: jax.Array, server: Server, links: LinkState, cohort: Cohort
    ) -> tuple[Server, LinkState, RoundInfo]:
        down_key, up_key = jax.random.split(key)
        context = make_context(down_key, 0)
        said = broadcast(down, context, server.params, server.downlink)
        ids, active = cohort.clients.client_id, cohort.clients.active
        ranks = jnp.arange(active.shape[0], dtype=jnp.int32)
        (total, also), (links, sent) = run_cohort(client_fn)(
            (Start(said.received, up_key), cohort.examples),
            (cohort.clients, links, ranks),
        )
        mean = weighted_mean(total.update)
        stepped = step(server.params, server.memory, mean, also)
        params = averaged_statistics(stepped.params, server.params, mean)
        moved = params, stepped.memory
        anyone, sound = total.update.weight > 0, all_finite(moved)
        info = round_info(
            total,
            sent,
            said.traffic(active, ids),
            said.messages(active.any()) if keep_messages else None,
            anyone & ~sound,
            **stepped.observed,
        )
        before = server.params, server.memory
        params, kept = where(anyone & sound, moved, before)
        return (
            Server(params, kept, said.link_after(server.downlink, active)),
            links,
            info,
        )

    return Algorithm(init, run_round, params=lambda server: server.params)
