"""Streaming DiLoCo: the model in fragments, each exchanged at its own time.

Douillard et al. 2025, "Streaming DiLoCo with overlapping communication" (arXiv
2501.18512), algorithm 2: fragments take turns, so that the whole model is never sent at
once. The new common fragment may arrive some steps after a worker sent its own change,
and is then mixed with what the worker has learnt since. Two things differ from the
paper: a server adds up and steps, and a fragment is a run of leaves with about an equal
share of the numbers (the paper's are layers).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_comp import checks, tree
from fedjax_comp.algorithms.client_update import Sent, Summand, round_info, send
from fedjax_comp.algorithms.links.given import given, given_execution
from fedjax_comp.base import (
    MODELS_TOLD,
    UPDATES_SENT,
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
    Task,
    make_context,
)
from fedjax_comp.client.sgd import Learner, LocalInfo, local_steps, mean_loss
from fedjax_comp.server.aggregate import weighted_mean
from fedjax_comp.server.broadcast import broadcast, partly_heard
from fedjax_comp.server.update import Model, step_towards


class ServerState(NamedTuple):
    """The common model, and the outer optimizer's state for each fragment."""

    params: PyTree
    optimizer_states: tuple[PyTree, ...]
    downlinks: tuple[LinkState, ...]


class Worker(NamedTuple):
    """What a worker keeps.

    Attributes:
      learner: its own model, and the inner optimizer's state.
      heard: the model as it last heard each fragment: what changes are taken from.
      uplinks: the memory of each fragment's uplink.
    """

    learner: Learner
    heard: PyTree
    uplinks: tuple[LinkState, ...]


def kind_of(direction: str, fragment: int) -> str:
    """The kind of a fragment's messages; the first one's is the direction alone.

    >>> kind_of("uplink", 0), kind_of("uplink", 2)
    ('uplink', 'uplink_2')
    """
    return f"{direction}_{fragment}" if fragment else direction


def fragments_of(params: PyTree, count: int) -> tuple[tuple[int, ...], ...]:
    """Cuts a model's leaves into runs with about as many numbers each.

    A leaf is in the fragment in whose share of all numbers its middle lies.

    Args:
      params: arrays, or their shapes.
      count: `P`, how many fragments.

    Returns:
      The places of each fragment's leaves.

    Raises:
      ValueError: when a fragment would be empty.

    >>> fragments_of([jnp.ones(n) for n in (4, 1, 2, 1)], 2)
    ((0,), (1, 2, 3))
    """
    sizes = [leaf.size for leaf in jax.tree.leaves(params)]
    found: list[list[int]] = [[] for _ in range(count)]
    for i, size in enumerate(sizes):
        twice_middle = 2 * sum(sizes[:i]) + size
        found[min(twice_middle * count // (2 * sum(sizes)), count - 1)].append(i)
    if not all(found):
        raise ValueError(
            f"Expected fragments={count} of about equal size out of the model's "
            f"{len(sizes)} leaves, and one would be empty: take fewer."
        )
    return tuple(map(tuple, found))


def taken(params: PyTree, places: tuple[int, ...]) -> list[jax.Array]:
    """The leaves of a fragment."""
    leaves = jax.tree.leaves(params)
    return [leaves[i] for i in places]


def put(params: PyTree, places: tuple[int, ...], part: list[jax.Array]) -> PyTree:
    """The model with these leaves in the fragment's place.

    >>> put({"a": 1, "b": 2}, (1,), [5])
    {'a': 1, 'b': 5}
    """
    leaves, structure = jax.tree.flatten(params)
    for i, leaf in zip(places, part, strict=True):
        leaves[i] = leaf
    return jax.tree.unflatten(structure, leaves)


def streaming_diloco(
    task: Task,
    *,
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation | None = None,
    fragments: int = 2,
    delay: int = 0,
    mixing: float = 0.0,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
    execution: Execution | None = None,
    keep_messages: bool = False,
) -> Algorithm:
    """DiLoCo whose fragments are exchanged in turn, once each in a round of `S` steps.

    A round is `P` parts of `S / P` steps. At the end of part `p` worker `i` sends what
    fragment `p` has changed by since it last heard it, and the outer optimizer steps,
    with a state of its own for each fragment; `delay` steps into the next part the
    worker hears of it:

        d_i = C(w_i[p] - h_i[p]),   w[p] <- outer_p(w[p], -sum_i p_i d_i)
        w_i[p] <- mixing * w_i[p] + (1 - mixing) * w[p],   h_i[p] <- w[p]

    A round first hears of the last fragment of the round before; the first of all
    rounds hears of the initial one, and pays for it as for all others. With one
    fragment and neither delay nor mixing it is `diloco`. A worker whose update does not
    count, or whose optimizer's state is not finite, goes on from what it had.

    Args:
      task: the model and its loss.
      client_optimizer: the inner optimizer, whose state lasts.
      server_optimizer: the outer one; `optax.sgd(0.7, momentum=0.9, nesterov=True)`
        when None.
      fragments: `P`, at least 1.
      delay: the paper's tau, in local steps.
      mixing: the paper's alpha, in [0, 1): how much a worker keeps of its own.
      uplink: compressor of what a fragment changed by; `identity()` when None.
      downlink: compressor of a fragment, without memory at the receiver;
        `identity()` when None.
      execution: how the workers are run; `scanned()` when None.
      keep_messages: return every message in `RoundInfo.messages`, for an audit.

    Returns:
      An `Algorithm` of `ServerState` and `Worker`, whose kinds of messages are
      `kind_of(direction, p)`.

    Raises:
      ValueError: for a number that is not as above; from `init` for a model with
        running statistics or too few leaves, and for a downlink with memory at the
        receiver; from `round` for a part that has no steps, or fewer than `delay`.

    >>> from fedjax_comp.models import classification, mlp
    >>> task = classification(mlp(16)(num_classes=10), input_shape=(8, 8, 1))
    >>> algorithm = streaming_diloco(task, client_optimizer=optax.adamw(0.001))
    >>> server, _ = algorithm.init(jax.random.key(0), task.init(jax.random.key(1)))
    >>> [[x.size for x in jax.tree.leaves(state)] for state in server.optimizer_states]
    [[16, 1024], [10, 160]]
    """
    checks.integer("fragments", fragments, minimum=1)
    checks.integer("delay", delay, minimum=0)
    checks.number("mixing", mixing, minimum=0.0, below=1.0)
    outer = server_optimizer or optax.sgd(0.7, momentum=0.9, nesterov=True)
    up, down = given("uplink", uplink), given("downlink", downlink)
    run_cohort = given_execution(execution)
    train = local_steps(task, client_optimizer)

    def init(key: jax.Array, params: PyTree) -> tuple[ServerState, Worker]:
        del key
        checks.gradients_alone("streaming_diloco()", params)
        parts = [taken(params, each) for each in fragments_of(params, fragments)]
        downlinks = tuple(partly_heard(down, part) for part in parts)
        learner = Learner(params, client_optimizer.init(params))
        worker = Worker(learner, params, tuple(up.init(part) for part in parts))
        states = tuple(outer.init(part) for part in parts)
        return ServerState(params, states, downlinks), worker

    def run_part(
        key: jax.Array,
        server: ServerState,
        workers: Worker,
        cohort: Cohort,
        part: int,
        steps: range,
    ) -> tuple[ServerState, Worker, RoundInfo, LocalInfo]:
        places = fragments_of(server.params, fragments)
        own, late = places[part], places[part - 1]
        down_key, up_key = jax.random.split(key)
        news = taken(server.params, late)
        before = server.downlinks[part - 1]
        said = broadcast(down, make_context(down_key, 0), news, before)

        def listen(learner: Learner, received: list[jax.Array]) -> Learner:
            mine = taken(learner.params, late)
            if mixing:
                pairs = zip(mine, received, strict=True)
                received = [mixing * a + (1 - mixing) * b for a, b in pairs]
            return learner._replace(params=put(learner.params, late, received))

        def client_fn(
            shared: tuple[list[jax.Array], jax.Array, Examples],
            client: tuple[ClientBatches, Worker, jax.Array],
        ) -> tuple[Summand, tuple[Worker, Sent]]:
            received, up_key, examples = shared
            batches, worker, rank = client
            learner, waiting = worker.learner, []
            if delay:
                learner, info = train(
                    learner, examples, _during(batches, steps[:delay])
                )
                waiting.append(info)
            learner, info = train(
                listen(learner, received), examples, _during(batches, steps[delay:])
            )
            heard = put(worker.heard, late, received)
            summand, (link, sent) = send(
                up,
                make_context(up_key, batches.client_id, rank),
                optax.tree.sub(taken(learner.params, own), taken(heard, own)),
                worker.uplinks[part],
                batches=batches,
                info=jax.tree.map(lambda *each: sum(each), info, *waiting),
                sound=tree.all_finite(learner),
                keep_message=keep_messages,
            )
            counted = summand.update.weight > 0
            learner = tree.where(counted, learner, listen(worker.learner, received))
            links = (*worker.uplinks[:part], link, *worker.uplinks[part + 1 :])
            after = Worker(learner, heard, links)
            return summand, (tree.where(batches.active, after, worker), sent)

        active, ids = cohort.clients.active, cohort.clients.client_id
        ranks = jnp.arange(active.shape[0], dtype=jnp.int32)
        total, (workers, sent) = run_cohort(client_fn)(
            (said.received, up_key, cohort.examples), (cohort.clients, workers, ranks)
        )
        fragment = Model(taken(server.params, own), server.optimizer_states[part])
        (params, state), refused = step_towards(
            outer, fragment, weighted_mean(total.update), total.update.weight > 0
        )
        states = server.optimizer_states
        info = round_info(
            total,
            sent,
            said.traffic(active, ids),
            said.messages(active.any()) if keep_messages else None,
            refused,
        )
        server = ServerState(
            put(server.params, own, params),
            (*states[:part], state, *states[part + 1 :]),
            tuple(
                said.link_after(link, active)
                if place == (part - 1) % fragments
                else link
                for place, link in enumerate(server.downlinks)
            ),
        )
        return server, workers, _of_part(info, part, (part - 1) % fragments), total.info

    def run_round(
        key: jax.Array, server: ServerState, workers: Worker, cohort: Cohort
    ) -> tuple[ServerState, Worker, RoundInfo]:
        steps = range(cohort.clients.rows.shape[1])
        if len(steps) // fragments < max(delay, 1):
            raise ValueError(
                f"Expected at least {max(delay, 1)} local steps, those of the delay or "
                f"one, in each of fragments={fragments} parts of {len(steps)}."
            )
        parts: list[tuple[RoundInfo, LocalInfo]] = []
        for part, own in enumerate(jax.random.split(key, fragments)):
            first, last = (len(steps) * i // fragments for i in (part, part + 1))
            server, workers, info, trained = run_part(
                own, server, workers, cohort, part, steps[first:last]
            )
            parts.append((info, trained))
        return server, workers, _together(parts)

    return Algorithm(init, run_round, params=lambda server: server.params)


def _during(batches: ClientBatches, steps: range) -> ClientBatches:
    """The client's work in some of its steps, which draw by a key of their own."""
    first, last = steps.start, steps.stop
    key = jax.random.fold_in(batches.key, first) if first else batches.key
    return batches._replace(
        rows=batches.rows[first:last], mask=batches.mask[first:last], key=key
    )


def _of_part(info: RoundInfo, part: int, late: int) -> RoundInfo:
    kinds = {"uplink": kind_of("uplink", part), "downlink": kind_of("downlink", late)}
    return info._replace(
        traffic={kinds[name]: x for name, x in info.traffic.items()},
        messages={kinds[name]: x for name, x in info.messages.items()},
    )


def _together(parts: list[tuple[RoundInfo, LocalInfo]]) -> RoundInfo:
    """What is observed of a round of parts."""
    infos = [info for info, _ in parts]
    trained = jax.tree.map(lambda *each: sum(each), *(own for _, own in parts))
    return infos[0]._replace(
        train_loss=mean_loss(trained),
        client_steps=trained.steps,
        dropped=sum((info.dropped for info in infos), jnp.zeros((), jnp.int32)),
        traffic={name: x for info in infos for name, x in info.traffic.items()},
        messages={name: x for info in infos for name, x in info.messages.items()},
        observed={
            # A fragment from each worker in turn is one model from each.
            UPDATES_SENT: _spoken(infos, "uplink"),
            MODELS_TOLD: _spoken(infos, "downlink"),
        },
    )


def _spoken(infos: list[RoundInfo], direction: str) -> Observed:
    (traffic,) = (one.traffic[direction] for one in infos if direction in one.traffic)
    return Observed(traffic.spoke.sum(dtype=jnp.float32))
