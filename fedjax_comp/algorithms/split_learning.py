"""Split learning: client and server train parts of one model, cut between layers.

A client runs the layers before the cut and sends their outputs; the server runs the
others and sends the gradient back. In turns (`round_robin`), a client that has gone
through its data hands the weights of its part to the next one, through the server:
without compression this is stochastic gradient descent on all data in that order. In
`parallel`, every client, and the server for it, starts from the same weights, and the
parts are averaged after the round: without compression this is federated averaging.
With two cuts the last part and the labels stay with the client (U-shaped).

Source: Gupta and Raskar 2018, "Distributed learning of deep neural network over
multiple agents", algorithms 1 to 3 (hand-over in the centralised mode; from peer to
peer costs the same, between other ends); Vepakomma et al. 2018, "Split learning for
health" (arXiv 1812.00564); parallel: Thapa et al. 2022, "SplitFed: when federated
learning meets split learning", algorithm 1 (SFLV1).
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_comp import tree as trees
from fedjax_comp.algorithms.links.given import given, given_execution
from fedjax_comp.algorithms.links.no_peek import Penalty
from fedjax_comp.algorithms.links.split_exchange import (
    Batch,
    Places,
    Sent,
    divide,
    exchange,
    finite,
    front,
    join,
    send,
    with_labels,
)
from fedjax_comp.base import (
    Algorithm,
    ClientBatches,
    Cohort,
    Compressor,
    Examples,
    Execution,
    Observed,
    PyTree,
    RoundInfo,
    make_context,
)
from fedjax_comp.client.sgd import (
    Learner,
    LocalInfo,
    at_rate,
    mean_loss,
    refuse_schedules,
)
from fedjax_comp.compress import identity
from fedjax_comp.models.split import SplitTask
from fedjax_comp.server.aggregate import WeightedSum, share, weighted, weighted_mean
from fedjax_comp.wire.traffic import to_client, to_server

Schedule = Literal["round_robin", "parallel"]
"""One client after the other with weights handed over, or all at once, averaged."""


class Turn(NamedTuple):
    """What is observed of one client's turn.

    Attributes:
      loss_sum: sum of the losses of the examples learnt from.
      examples: how many these are.
      steps: batches learnt from, int32.
      broken: whether a batch was left out because it was not finite.
    """

    loss_sum: jax.Array
    examples: jax.Array
    steps: jax.Array
    broken: jax.Array


class _Said(NamedTuple):
    """The messages of a batch, or of a hand-over, and whether they were sent."""

    sent: dict[str, Sent]
    spoke: dict[str, jax.Array]


_Spoken = tuple[_Said, _Said]
"""Of the hand-overs `[C]`, and of the batches `[C, S]`."""


def _hand_over(
    key: jax.Array, before: PyTree, after: PyTree, batches: ClientBatches
) -> _Said:
    """A client's weights on their way to it before its turn, and back after it."""
    client = batches.client_id
    context = make_context(key, client)
    _, received = send(identity(), context, before, to_client(client))
    _, returned = send(identity(), context, after, to_server(client))
    sent = {"weights_down": received, "weights_up": returned}
    return _Said(sent, dict.fromkeys(sent, batches.active))


def split_learning(
    task: SplitTask,
    *,
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation | None = None,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
    schedule: Schedule = "round_robin",
    penalty: Penalty | None = None,
    execution: Execution | None = None,
    keep_messages: bool = False,
) -> Algorithm:
    """Split learning in turns or in parallel, vanilla or U-shaped.

    A turn goes through a client's batches. Before it the client receives its parts'
    weights (with the optimizer's state, in turns), after it they are sent on: both are
    paid for. A batch whose gradients are not finite, or that would lead to parts that
    are not, changes nothing, and its client is counted as dropped; of its messages only
    those are sent that come before what is not finite. In parallel a client that has
    learnt from no batch has no weight in the average. A short batch is filled up with
    zeros, which travel as the others do; labels do not. `ClientBatches.rate` multiplies
    the steps of all parts.

    Args:
      task: the model in two parts, or in three with the labels at the client.
      client_optimizer: of the client's parts.
      server_optimizer: of the server's; `client_optimizer` when None.
      uplink: compressor of activations (and of the gradients of the server's outputs),
        without memory; `identity()` when None.
      downlink: compressor of their gradients (and of the server's outputs).
      schedule: "round_robin" or "parallel".
      penalty: on what activations tell of inputs, such as `no_peek(weight)`; the
        client's first part is trained against it, and it is in no reported loss.
      execution: how the cohort is run in parallel; `scanned()` when None. Turns are
        always one after another.
      keep_messages: return every message in `RoundInfo.messages`, for an audit.

    Returns:
      An `Algorithm` of `Places` of `Learner`; clients have no state. Kinds of
      messages: `weights_down` and `weights_up` once a client; `activations` and
      `gradients`, with two cuts `outputs` and `output_gradients` too, once a batch.

    Raises:
      ValueError: for another schedule, and in parallel, where all optimizers begin anew
        every round, for one with a schedule of rates; from `init` for another number of
        parts; from a round for a compressor with memory.

    >>> from fedjax_comp.models import mlp
    >>> from fedjax_comp.models.split import split_classification
    >>> task = split_classification(
    ...     mlp(16)(10), ["Dense_1"], num_classes=10, input_shape=(8, 8, 1)
    ... )
    >>> algorithm = split_learning(task, client_optimizer=optax.sgd(0.1))
    >>> params = task.task.init(jax.random.key(0))
    >>> places, _ = algorithm.init(jax.random.key(1), params)
    >>> trees.size(places.client.params), trees.size(places.server.params)
    (1040, 170)
    """
    if schedule not in ("round_robin", "parallel"):
        raise ValueError(
            f"Expected schedule={schedule!r} to be 'round_robin' or 'parallel'."
        )
    optimizers = Places(client_optimizer, server_optimizer or client_optimizer)
    in_parallel = schedule == "parallel"
    if in_parallel:
        for place, one in zip(Places._fields, optimizers, strict=True):
            refuse_schedules(one, what=f"{place} optimizer")
    up = given("uplink", uplink)
    down = given("downlink", downlink)
    run_cohort = given_execution(execution)

    def fresh(params: Places) -> Places:
        return Places(
            *(Learner(p, o.init(p)) for p, o in zip(params, optimizers, strict=True))
        )

    def init(key: jax.Array, params: PyTree) -> tuple[Places, tuple[()]]:
        del key
        places = divide(task, params)
        if in_parallel:
            for place, one, own in zip(Places._fields, optimizers, places, strict=True):
                refuse_schedules(one, own, what=f"{place} optimizer")
        return fresh(places), ()

    def learn(learners: Places, gradients: Places, rate: jax.Array | None) -> Places:
        learnt = []
        for learner, own, optimizer in zip(
            learners, gradients, optimizers, strict=True
        ):
            updates, state = optimizer.update(
                own, learner.optimizer_state, learner.params
            )
            params = optax.apply_updates(learner.params, at_rate(updates, rate))
            learnt.append(Learner(params, state))
        return Places(*learnt)

    def take_turn(
        key: jax.Array, learners: Places, examples: Examples, batches: ClientBatches
    ) -> tuple[Places, Turn, _Said]:
        def step(
            carry: tuple[Places, Turn], work: tuple[jax.Array, jax.Array, jax.Array]
        ) -> tuple[tuple[Places, Turn], _Said]:
            learners, turn = carry
            index, rows, mask = work
            batch = front(Batch(examples.x[rows], examples.y[rows], mask))
            context = make_context(jax.random.fold_in(key, index), batches.client_id)
            params = Places(*(learner.params for learner in learners))
            outcome = exchange(
                task, up, down, context, batches.client_id, params, batch, penalty
            )
            present = batches.active & jnp.any(mask)
            learnt = learn(learners, outcome.gradients, batches.rate)
            learns = present & finite(outcome) & trees.all_finite(learnt)
            examples_used = jnp.sum(mask, dtype=jnp.float32)
            after = Turn(
                turn.loss_sum + outcome.loss.astype(jnp.float32) * examples_used,
                turn.examples + examples_used,
                turn.steps + 1,
                turn.broken,
            )
            kept = trees.where(learns, (learnt, after), (learners, turn))
            broken = kept[1]._replace(broken=turn.broken | (present & ~learns))
            spoke = {kind: present & sent for kind, sent in outcome.spoke.items()}
            return (kept[0], broken), _Said(outcome.sent, spoke)

        steps = jnp.arange(batches.rows.shape[0], dtype=jnp.uint32)
        nothing = Turn(
            jnp.zeros(()), jnp.zeros(()), jnp.zeros((), jnp.int32), jnp.asarray(False)
        )
        (learners, turn), said = jax.lax.scan(
            step, (learners, nothing), (steps, batches.rows, batches.mask)
        )
        return learners, turn, said

    def in_turns(
        key: jax.Array, learners: Places, cohort: Cohort
    ) -> tuple[Places, Turn, _Spoken]:
        def next_client(
            before: Places, batches: ClientBatches
        ) -> tuple[Places, tuple[Turn, _Spoken]]:
            after, turn, said = take_turn(key, before, cohort.examples, batches)
            # The optimizer's state goes with the weights.
            handed = _hand_over(key, before.client, after.client, batches)
            return after, (turn, (handed, said))

        learners, (turns, spoken) = jax.lax.scan(next_client, learners, cohort.clients)
        return learners, turns, spoken

    def at_once(
        key: jax.Array, learners: Places, cohort: Cohort
    ) -> tuple[Places, Turn, _Spoken]:
        start = Places(*(learner.params for learner in learners))

        def client_fn(
            shared: tuple[Places, Examples, jax.Array], batches: ClientBatches
        ) -> tuple[WeightedSum, tuple[Turn, _Spoken]]:
            start, examples, key = shared
            learners, turn, said = take_turn(key, fresh(start), examples, batches)
            trained = learners.client.params
            handed = _hand_over(key, start.client, trained, batches)
            moved = Places(
                *(
                    optax.tree.sub(learner.params, before)
                    for learner, before in zip(learners, start, strict=True)
                )
            )
            weight, sound = share(batches.num_examples), trees.all_finite(moved)
            turn = turn._replace(broken=turn.broken | (batches.active & ~sound))
            counts = batches.active & (turn.steps > 0) & sound
            return weighted(moved, weight, counts), (turn, (handed, said))

        total, (turns, spoken) = run_cohort(client_fn)(
            (start, cohort.examples, key), cohort.clients
        )
        moved = optax.tree.add(start, weighted_mean(total, start))
        sound = trees.all_finite(moved)
        broken = turns.broken | (~sound & cohort.clients.active)
        after = trees.where(sound, moved, start)
        return fresh(after), turns._replace(broken=broken), spoken

    def run_round(
        key: jax.Array, learners: Places, clients: tuple[()], cohort: Cohort
    ) -> tuple[Places, tuple[()], RoundInfo]:
        train = at_once if in_parallel else in_turns
        trained, turns, spoken = train(key, learners, cohort)
        active = cohort.clients.active
        info = RoundInfo(
            train_loss=mean_loss(
                LocalInfo(turns.loss_sum.sum(), turns.examples.sum(), turns.steps.sum())
            ),
            client_steps=turns.steps.sum(dtype=jnp.int32),
            dropped=jnp.sum(turns.broken, dtype=jnp.int32),
            traffic={
                kind: one.traffic(said.spoke[kind])
                for said in spoken
                for kind, one in said.sent.items()
            },
            observed={"turns": Observed(active.sum(dtype=jnp.int32))},
            messages={
                kind: one.messages(said.spoke[kind])
                for said in spoken
                for kind, one in said.sent.items()
                if keep_messages
            },
        )
        return trained, clients, info

    return Algorithm(
        init=init,
        round=run_round,
        params=lambda learners: join(Places(*(one.params for one in learners))),
    )


def split_links(
    task: SplitTask, uplink: Compressor, downlink: Compressor
) -> dict[str, Compressor]:
    """The compressor of every kind of message, by name, for audits."""
    handed = {"weights_down": identity(), "weights_up": identity()}
    if len(task.parts) == 2:
        labelled = with_labels(uplink, num_classes=task.num_classes)
        return {"activations": labelled, "gradients": downlink, **handed}
    return {
        "activations": uplink,
        "output_gradients": uplink,
        "outputs": downlink,
        "gradients": downlink,
        **handed,
    }
