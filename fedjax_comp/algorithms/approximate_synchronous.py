"""Approximate synchronous parallel: only significant updates leave a data centre.

Every data centre has a replica of the whole model. It applies its own update at once
and adds it to the sum of what it has not sent. A coordinate of this sum is sent to all
other centres once it is large relative to the parameter, |sum / w| > T, or w = 0. Until
then it stays in the sum, so that nothing is ever lost. T falls as training goes on.

A message may arrive some rounds late; a centre waits for it then (the mirror clock). A
message that is too long for its link is announced, and waited for at once (the
selective barrier). How long a round takes depends on the links and is not computed
here.

Source: Hsieh, Harlap, Vijaykumar, Konomis, Ganger, Gibbons and Mutlu 2017, "Gaia:
geo-distributed machine learning approaching LAN speeds", NSDI, sections 3 and 4.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_comp import tree as trees
from fedjax_comp.algorithms.links.given import given_execution
from fedjax_comp.algorithms.links.significance import (
    Select,
    Update,
    significant_link,
)
from fedjax_comp.base import (
    EVERYONE,
    Algorithm,
    Bits,
    ClientBatches,
    Cohort,
    Ends,
    Examples,
    Execution,
    Messages,
    Observed,
    PyTree,
    RoundInfo,
    Task,
    Traffic,
    make_context,
)
from fedjax_comp.client.sgd import Learner, LocalInfo, local_steps, mean_loss
from fedjax_comp.wire.accounting import num_bits
from fedjax_comp.wire.fields import Code


class Centres(NamedTuple):
    """What all centres have, and what each of them has.

    Attributes:
      base: the model of all updates that have arrived everywhere.
      replicas: every centre's own model, leaves `[N, ...]`.
      round: rounds done, int32 scalar.
    """

    base: PyTree
    replicas: PyTree
    round: jax.Array


class CentreState(NamedTuple):
    """One centre's memory.

    Attributes:
      unsent: its updates that were not significant yet, `[n]`.
      in_flight: its messages under way, the oldest first, `[delay, n]`.
      optimizer_state: of its optimizer.
    """

    unsent: jax.Array
    in_flight: jax.Array
    optimizer_state: PyTree


class _Arrived(NamedTuple):
    update: jax.Array
    info: LocalInfo
    dropped: jax.Array
    sent: jax.Array


class _Done(NamedTuple):
    state: CentreState
    lead: jax.Array
    bits: Bits
    waited_for: jax.Array
    messages: Messages | None


def inverse_root(initial: float) -> optax.Schedule:
    """The threshold `T_0 / sqrt(t)` in round `t = 1, 2, ...`.

    Args:
      initial: `T_0`, at least 0; the paper takes 0.01.

    Returns:
      A schedule of rounds done.

    Raises:
      ValueError: for one that is negative or not finite.

    >>> [round(float(inverse_root(0.01)(jnp.int32(t))), 4) for t in (0, 3)]
    [0.01, 0.005]
    """
    if not (math.isfinite(initial) and initial >= 0):
        raise ValueError(f"Expected a finite initial={initial} >= 0.")

    def threshold(done: jax.typing.ArrayLike) -> jax.Array:
        t = jnp.asarray(done).astype(jnp.float32) + 1
        return jnp.float32(initial) / jnp.sqrt(t)

    return threshold


def approximate_synchronous(
    task: Task,
    *,
    num_centres: int,
    optimizer: optax.GradientTransformation,
    select: Select,
    delay: int = 0,
    barrier_bits: float = math.inf,
    code: Code | None = None,
    execution: Execution | None = None,
    keep_messages: bool = False,
) -> Algorithm:
    """Approximate synchronous parallel (Gaia) among data centres.

    In a round, centre i trains from its replica w_i by its batches to w_i + d_i and
    counts u_i = (n_i / sum_j n_j) d_i as its update. With s_i the significant part of
    what it has not sent, s_i goes to the others:

        base <- base + sum_i s_i,    w_i <- base + what centre i alone has.

    `select` decides what is significant: `relative(threshold)` is the paper's rule, and
    `largest(fraction)` makes top-k with error feedback of the same protocol. At T = 0
    everything is sent and all replicas are equal: this is federated averaging, with one
    batch a round synchronous SGD. An update that is not finite is left out, and its
    centre counted as dropped. A round after which a replica would not be finite is
    refused, and all its centres are counted as dropped.

    Args:
      task: the model and its loss.
      num_centres: `N`; all of them are in every cohort.
      optimizer: of each centre; its state stays there.
      select: which coordinates are sent, e.g. `relative(inverse_root(0.01))`.
      delay: rounds that a message is under way; 0 when all wait for it.
      barrier_bits: a longer message is waited for, whatever the delay.
      code: of the places of what is sent; None for `ceil(log2 n)` bits each.
      execution: how the centres are run; `scanned()` when None.
      keep_messages: return every message in `RoundInfo.messages`, for an audit.

    Returns:
      An `Algorithm` of `Centres` and `CentreState`; its model is the mean of the
      replicas. A message counts once for each of the `N - 1` that receive it, both
      as sent and as received. `observed` has the coordinates sent,
      `significant`, and for each centre whether its message is `waited_for`.

    Raises:
      ValueError: for fewer than two centres, a negative delay, a barrier below 0; from
        a round for a cohort that is not all centres.

    >>> from fedjax_comp.models import classification, linear
    >>> task = classification(linear()(10), input_shape=(8, 8, 1))
    >>> from fedjax_comp.algorithms.links.significance import relative
    >>> gaia = approximate_synchronous(
    ...     task,
    ...     num_centres=3,
    ...     optimizer=optax.sgd(0.1),
    ...     select=relative(inverse_root(0.01)),
    ... )
    >>> centres, own = gaia.init(jax.random.key(0), task.init(jax.random.key(1)))
    >>> centres.replicas["Dense_0"]["bias"].shape, own.unsent.shape
    ((3, 10), (650,))
    """
    if num_centres < 2:
        raise ValueError(f"Expected num_centres={num_centres} >= 2.")
    if delay < 0:
        raise ValueError(f"Expected delay={delay} >= 0 rounds.")
    if not barrier_bits >= 0:
        raise ValueError(f"Expected barrier_bits={barrier_bits} >= 0.")
    run_centres = given_execution(execution)
    train = local_steps(task, optimizer)
    link = significant_link(code)

    def init(key: jax.Array, params: PyTree) -> tuple[Centres, CentreState]:
        del key
        size = trees.size(params)
        replicas = jax.tree.map(
            lambda x: jnp.broadcast_to(x, (num_centres, *jnp.shape(x))), params
        )
        own = CentreState(
            jnp.zeros(size, jnp.float32),
            jnp.zeros((delay, size), jnp.float32),
            optimizer.init(params),
        )
        return Centres(params, replicas, jnp.zeros((), jnp.int32)), own

    def run_round(
        key: jax.Array, centres: Centres, states: CentreState, cohort: Cohort
    ) -> tuple[Centres, CentreState, RoundInfo]:
        clients = cohort.clients
        if clients.active.shape[0] != num_centres:
            raise ValueError(
                f"Expected a cohort of all num_centres={num_centres} centres, got "
                f"{clients.active.shape[0]}."
            )
        sizes = jnp.where(clients.active, clients.num_examples, 0).astype(jnp.float32)
        shares = sizes / jnp.maximum(sizes.sum(), 1)

        def client_fn(
            shared: tuple[Examples, jax.Array, jax.Array],
            client: tuple[ClientBatches, CentreState, PyTree, jax.Array],
        ) -> tuple[_Arrived, _Done]:
            examples, done, key = shared
            batches, state, replica, share = client
            learner, info = train(
                Learner(replica, state.optimizer_state), examples, batches
            )
            moved = optax.tree.sub(learner.params, replica)
            learnt = batches.active & trees.all_finite((moved, learner.optimizer_state))
            update = jnp.where(learnt, share * _vector(moved), 0)
            owed = state.unsent + update
            keep = select(owed, _vector(replica), done) & batches.active
            context = make_context(key, batches.client_id)
            payload, _ = link.encode(context, Update(owed, keep), ())
            decoded, _ = link.decode(context, payload, ())
            sent = jnp.where(batches.active, decoded[0], 0)
            bits = num_bits(payload)
            length = sum(
                (v.astype(jnp.float32) for v in bits.variable),
                start=jnp.float32(bits.fixed),
            )
            waited_for = batches.active & (length > barrier_bits)
            if delay == 0:
                arrived, in_flight = sent, state.in_flight
            else:
                at_once = jnp.where(waited_for, sent, 0)
                arrived = state.in_flight[0] + at_once
                in_flight = jnp.concatenate(
                    [state.in_flight[1:], (sent - at_once)[None]]
                )
            # A coordinate is sent whole or not at all: one of the two is exactly zero.
            unsent = owed - sent
            output = _Done(
                state=CentreState(
                    unsent,
                    in_flight,
                    trees.where(learnt, learner.optimizer_state, state.optimizer_state),
                ),
                lead=unsent + in_flight.sum(axis=0),
                bits=bits,
                waited_for=waited_for,
                messages=(
                    Messages(
                        context,
                        payload,
                        (),
                        batches.active,
                        Ends(batches.client_id, jnp.int32(EVERYONE)),
                        decoded,
                    )
                    if keep_messages
                    else None
                ),
            )
            summand = _Arrived(
                arrived,
                trees.where(learnt, info, optax.tree.zeros_like(info)),
                (batches.active & ~learnt).astype(jnp.int32),
                jnp.sum(sent != 0, dtype=jnp.int32),
            )
            return summand, output

        total, done = run_centres(client_fn)(
            (cohort.examples, centres.round, key),
            (clients, states, centres.replicas, shares),
        )
        base = _vector(centres.base) + total.update
        replicas = jax.vmap(lambda lead: _like(centres.base, base + lead))(done.lead)
        after = Centres(_like(centres.base, base), replicas, centres.round)
        sound = trees.all_finite(after)
        after, states = trees.where(sound, (after, done.state), (centres, states))
        info = RoundInfo(
            train_loss=mean_loss(total.info),
            client_steps=total.info.steps,
            dropped=jnp.where(
                sound, total.dropped, clients.active.sum(dtype=jnp.int32)
            ),
            traffic={
                "updates": _to_all_others(done.bits, clients.active, clients.client_id)
            },
            observed={
                "significant": Observed(total.sent),
                "waited_for": Observed(done.waited_for),
            },
            messages={"updates": done.messages} if keep_messages else {},
        )
        return after._replace(round=centres.round + 1), states, info

    def mean_replica(centres: Centres) -> PyTree:
        return trees.mean_row(centres.replicas)

    return Algorithm(init=init, round=run_round, params=mean_replica)


def _to_all_others(bits: Bits, active: jax.Array, centre: jax.Array) -> Traffic:
    """A message of every centre to every other one, `N (N - 1)` of them."""
    others = active.shape[0] - 1
    receivers = [jnp.roll(centre, -turn) for turn in range(1, others + 1)]
    return Traffic(
        Bits(bits.fixed, tuple(jnp.tile(v, others) for v in bits.variable)),
        jnp.tile(active, others),
        Ends(jnp.tile(centre, others), jnp.concatenate(receivers)),
    )


def _vector(tree: PyTree) -> jax.Array:
    return trees.ravel(jax.tree.leaves(tree))


def _like(tree: PyTree, vector: jax.Array) -> PyTree:
    leaves, structure = jax.tree.flatten(tree)
    return jax.tree.unflatten(structure, trees.unravel(vector, leaves))
