"""Averaging of models that learn from streams, whenever a trigger asks for it.

Learners train on their own streams and keep their models. After every round (`b` local
updates each) a `Trigger` looks at how far each has moved from the common reference r
and names the members of an average: they send their models, and they alone receive the
mean. When everyone is a member, r moves to the mean.

Source: Kamp et al. 2018, "Efficient Decentralized Deep Learning by Dynamic Model
Averaging" (arXiv 1807.03210). The triggers are in `dynamic_averaging` and
`variance_monitoring`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_comp import tree
from fedjax_comp.algorithms.client_update import Sent, sent_to_server
from fedjax_comp.algorithms.links import notices
from fedjax_comp.algorithms.links.given import given, given_execution
from fedjax_comp.base import (
    Algorithm,
    ClientBatches,
    Cohort,
    Compressor,
    Examples,
    Execution,
    LinkState,
    Messages,
    Observed,
    PyTree,
    RoundInfo,
    Task,
    make_context,
)
from fedjax_comp.client.sgd import Learner, LocalInfo, local_steps, mean_loss
from fedjax_comp.server.broadcast import broadcast, partly_heard
from fedjax_comp.wire.traffic import to_client, to_server

POLL = 1
"""The notice that asks a learner for its model."""

PARTIAL = 2
"""The notice that an average is not of all: its members are not to move r."""


class Moved(NamedTuple):
    """How far the learners have moved from the reference.

    Attributes:
      difference: what would be decoded of each learner's difference to r, leaves
        `[m, ...]`, finite; of no meaning for those that are not able.
      able: bool `[m]`, learners that can take part (active, of finite model).
      weights: float32 `[m]`, weights in an average.
      violations: int32 scalar, local violations since the last full synchronisation.
      step: what r moved by at the last full synchronisation, which all know; zeros
        before the second one.
    """

    difference: PyTree
    able: jax.Array
    weights: jax.Array
    violations: jax.Array
    step: PyTree


class Members(NamedTuple):
    """Whom a trigger chose.

    Attributes:
      members: bool `[m]`, who takes part in the average.
      polled: bool `[m]`, members that were asked to send; the others sent unasked.
      violators: bool `[m]`, learners whose local condition was violated.
      reports: what every able learner told the coordinator before it chose, leaves
        `[m, ...]`; `()` where nothing is told.
    """

    members: jax.Array
    polled: jax.Array
    violators: jax.Array
    reports: PyTree = ()


Trigger = Callable[[jax.Array, Moved], Members]
"""`(key, Moved) -> Members`: who takes part in an average after a round."""


class Coordinator(NamedTuple):
    """The coordinator's state, and what every learner knows of it.

    Attributes:
      reference: r, moved by full synchronisations only.
      average: the last average, of all or of some: what the coordinator would give to
        a newcomer, and the model to evaluate.
      violations: local violations since the last full synchronisation, int32.
      step: what the last full synchronisation moved r by.
      downlink: memory of the downlink.
    """

    reference: PyTree
    average: PyTree
    violations: jax.Array
    step: PyTree
    downlink: LinkState


class LearnerState(NamedTuple):
    """One learner: its model, its optimizer's state, and the memory of its uplink."""

    learner: Learner
    uplink: LinkState


class _Trained(NamedTuple):
    learner: Learner
    uplink: LinkState
    difference: PyTree
    healthy: jax.Array
    sent: Sent


def averaging_links(uplink: Compressor, downlink: Compressor) -> dict[str, Compressor]:
    """The compressor of every kind of message of `model_averaging`, for audits."""
    return {
        "uplink": uplink,
        "downlink": downlink,
        "polls": notices.LINK,
        "partial_notices": notices.LINK,
        "reports": notices.LINK,
    }


def model_averaging(
    task: Task,
    trigger: Trigger,
    *,
    optimizer: optax.GradientTransformation,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
    execution: Execution | None = None,
    keep_messages: bool = False,
) -> Algorithm:
    """Averaging of learners' models by a trigger.

    A round is `S` local updates of every learner (the paper's b), then the trigger. A
    learner's optimizer state stays with it: it is neither sent nor averaged. Models
    travel as differences to r, which both ends know, so that a compressor may be put on
    either link; triggers see what would be decoded. A learner whose model, optimizer's
    state or message is no longer finite starts again from r, which it knows, with a new
    state, and takes no part in that average; its loss of the round is left out of the
    sums, and it is counted as dropped. An average with which r would not be finite is
    refused: its members are dropped alike, and no link remembers it. While a learner is
    not active no synchronisation is full, since r must be common to all.

    Args:
      task: the model and its loss.
      trigger: `dynamic(delta)`, `periodic()`, `variance_monitoring(theta)`, ...
      optimizer: the learners' optimizer.
      uplink: compressor of a learner's difference to r; `identity()` when None.
      downlink: compressor of the average's difference to r; `identity()` when None.
      execution: how the learners are run; `scanned()` when None.
      keep_messages: return every message in `RoundInfo.messages`, for an audit.

    Returns:
      An `Algorithm` of `Coordinator` and `LearnerState`. The cohort is all `m` learners
      in every round. `RoundInfo.train_loss` is the mean prequential loss of the round;
      `observed` has its sum `loss_sum`, and `violators`, `members` and `full`.

    Raises:
      ValueError: from `init` for a downlink whose receiver has memory, since not every
        learner hears every broadcast.
    """
    up = given("uplink", uplink)
    down = given("downlink", downlink)
    run_learners = given_execution(execution)
    train = local_steps(task, optimizer)

    def init(key: jax.Array, params: PyTree) -> tuple[Coordinator, LearnerState]:
        del key
        down_state = partly_heard(down, params)
        learner = Learner(params, optimizer.init(params))
        coordinator = Coordinator(
            reference=params,
            average=params,
            violations=jnp.zeros((), jnp.int32),
            step=optax.tree.zeros_like(params),
            downlink=down_state,
        )
        return coordinator, LearnerState(learner, up.init(params))

    def run_round(
        key: jax.Array, coordinator: Coordinator, states: LearnerState, cohort: Cohort
    ) -> tuple[Coordinator, LearnerState, RoundInfo]:
        up_key, down_key, trigger_key = jax.random.split(key, 3)
        notice_key = jax.random.fold_in(key, 0)

        def client_fn(
            shared: tuple[PyTree, Examples],
            client: tuple[ClientBatches, LearnerState],
        ) -> tuple[LocalInfo, _Trained]:
            reference, examples = shared
            batches, state = client
            learner, info = train(state.learner, examples, batches)
            whole = tree.all_finite(learner)
            afresh = Learner(reference, optimizer.init(reference))
            learner = tree.where(whole, learner, afresh)
            context = make_context(up_key, batches.client_id)
            payload, sender = up.encode(
                context, optax.tree.sub(learner.params, reference), state.uplink.sender
            )
            difference, receiver = up.decode(context, payload, state.uplink.receiver)
            # Neither may a message be, nor what is remembered of it.
            link = LinkState(sender, receiver)
            healthy = whole & tree.all_finite((difference, link))
            learner = tree.where(healthy, learner, afresh)
            nothing = optax.tree.zeros_like(difference)
            trained = _Trained(
                learner=learner,
                uplink=link,
                difference=tree.where(healthy, difference, nothing),
                healthy=healthy,
                sent=sent_to_server(
                    context,
                    payload,
                    state.uplink.receiver,
                    healthy,
                    client_id=batches.client_id,
                    used=difference,
                    keep_message=keep_messages,
                ),
            )
            return tree.where(healthy, info, optax.tree.zeros_like(info)), trained

        clients, reference = cohort.clients, coordinator.reference
        info, trained = run_learners(client_fn)(
            (reference, cohort.examples), (clients, states)
        )
        able = trained.healthy & clients.active
        moved = Moved(
            difference=trained.difference,
            able=able,
            weights=clients.num_examples.astype(jnp.float32),
            violations=coordinator.violations,
            step=coordinator.step,
        )
        members, polled, violators, told = trigger(trigger_key, moved)
        anyone = members.any()
        # Those that began again have nothing to add, but must hear of the new r.
        everyone = anyone & jnp.all(members | (clients.active & ~trained.healthy))
        hearers = members | everyone
        # Whom all know to be left out is no news; that somebody is away is.
        known = ~violators.any() & jnp.any(able & ~members)
        partial = anyone & ~everyone & ~known

        said = broadcast(
            down,
            make_context(down_key, 0),
            mean_of(moved, members),
            coordinator.downlink,
        )
        received = optax.tree.add(reference, said.received)
        sound = tree.all_finite(received)
        # All know r: who hears of a model that is not finite goes back to it.
        received = tree.where(sound, received, reference)
        learners = trained.learner._replace(
            params=jax.tree.map(
                lambda own, common: jnp.where(
                    tree.along(hearers, own), common[None], own
                ),
                trained.learner.params,
                received,
            )
        )
        links = jax.tree.map(
            lambda new, old: jnp.where(tree.along(members & sound, new), new, old),
            trained.uplink,
            states.uplink,
        )
        seen = coordinator.violations + violators.sum(dtype=jnp.int32)
        new_coordinator = Coordinator(
            reference=tree.where(everyone, received, reference),
            average=tree.where(anyone, received, coordinator.average),
            violations=jnp.where(everyone, 0, seen),
            step=tree.where(
                everyone, optax.tree.sub(received, reference), coordinator.step
            ),
            downlink=tree.where(anyone & sound, said.link, coordinator.downlink),
        )
        to_learners = to_client(clients.client_id)
        polls, poll_messages = notices.notices(notice_key, POLL, polled, to_learners)
        partly, partly_messages = notices.notices(
            notice_key, PARTIAL, hearers & partial, to_learners
        )
        sent = trained.sent._replace(spoke=members)
        traffic = {
            "uplink": sent.traffic,
            "downlink": said.traffic(hearers, clients.client_id),
            "polls": polls,
            "partial_notices": partly,
        }
        messages: dict[str, Messages] = {}
        if sent.messages is not None:
            messages = {
                "uplink": sent.messages._replace(spoke=members),
                "downlink": said.messages(anyone),
                "polls": poll_messages,
                "partial_notices": partly_messages,
            }
        if jax.tree.leaves(told):
            traffic["reports"], reports = notices.reports(
                notice_key, told, able, to_server(clients.client_id)
            )
            if messages:
                messages["reports"] = reports
        round_info = RoundInfo(
            train_loss=mean_loss(info),
            client_steps=info.steps,
            dropped=jnp.sum(
                clients.active & (~able | (members & ~sound)), dtype=jnp.int32
            ),
            traffic=traffic,
            observed={
                "loss_sum": Observed(info.loss_sum),
                "violators": Observed(violators.sum(dtype=jnp.int32)),
                "members": Observed(members.sum(dtype=jnp.int32)),
                "full": Observed(everyone),
            },
            messages=messages,
        )
        return new_coordinator, LearnerState(learners, links), round_info

    return Algorithm(
        init=init, round=run_round, params=lambda coordinator: coordinator.average
    )


def mean_of(moved: Moved, members: jax.Array) -> PyTree:
    """The members' weighted mean difference to r; zeros when there is no member."""
    weights = jnp.where(members, moved.weights, 0)
    total = weights.sum()
    shares = weights / jnp.where(total == 0, 1, total)

    def mean(x: jax.Array) -> jax.Array:
        wide = tree.widened(x)
        return jnp.tensordot(shares.astype(wide.dtype), wide, axes=1).astype(x.dtype)

    return jax.tree.map(mean, moved.difference)
