"""Zeroth-order training: clients send loss differences, never a model (DeComFL).

Both ends draw the directions from shared keys, so that a step is described by one
number for each of its directions, whatever the model's size:

    client i   x <- w;  at step k
                   g_kp = (f(x + mu z_kp) - f(x)) / mu,   p = 1, ..., P
                   x <- x - (eta / P) sum_p g_kp z_kp
               sends all S P numbers, C(g_i)
    server     s = sum_i n_i C(g_i) / sum_i n_i
               w <- w - (eta / P) sum_kp s_kp z_kp

Since all clients step along the same directions, the mean of their numbers gives the
mean of their models: this is federated averaging of `x`. A client rebuilds `w` from the
`s` of the rounds that it missed.

Source: Li, Ying, Liu, Dong and Yang 2024, "Achieving dimension-free communication in
federated learning via zeroth-order optimization" (DeComFL, arXiv 2405.15861). FedKSeed
(Qin et al. 2024, arXiv 2312.06353), which draws seeds from a fixed pool and sends a
client that was away one sum for each seed, is not implemented.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_comp import checks, tree
from fedjax_comp.algorithms.client_update import Sent, Summand, round_info, send
from fedjax_comp.algorithms.links.given import given, given_execution
from fedjax_comp.base import (
    EVERYONE,
    MODELS_TOLD,
    UPDATES_SENT,
    Algorithm,
    Bits,
    ClientBatches,
    Cohort,
    Compressor,
    Context,
    Examples,
    Execution,
    LinkState,
    Messages,
    Observed,
    PyTree,
    RoundInfo,
    Task,
    Traffic,
    make_context,
)
from fedjax_comp.client.sgd import plain_rate
from fedjax_comp.client.zeroth_order import (
    Directions,
    evaluations,
    gaussian,
    replay,
    zeroth_order_steps,
)
from fedjax_comp.compress import identity
from fedjax_comp.server.aggregate import weighted_mean
from fedjax_comp.server.broadcast import broadcast
from fedjax_comp.wire.traffic import to_client


class ServerState(NamedTuple):
    """The model, and what clients that were away have missed.

    Attributes:
      params: `w`.
      rounds: how many led to it, int32 scalar.
      past: the `s` of the last rounds, the last one first, each `[S, P]` laid end to
        end, float32 `[kept]`.
    """

    params: PyTree
    rounds: jax.Array
    past: jax.Array


class ClientState(NamedTuple):
    """The number of rounds whose `s` a client knows, int32 scalar."""

    heard: jax.Array


class Missed(NamedTuple):
    """What each client of the cohort is sent.

    Attributes:
      rounds: bool `[C, R]`, who is sent the `s` of which round, the last one first.
      model: bool `[C]`, who is sent the model in place of them.
    """

    rounds: jax.Array
    model: jax.Array


def missed(away: jax.Array, active: jax.Array, *, most: int, sensible: int) -> Missed:
    """What each client needs to have the model.

    Args:
      away: int32 `[C]`, how many rounds' `s` it lacks.
      active: bool `[C]`, who is told anything.
      most: `R`, of how many rounds there are any.
      sensible: of how many rounds they are no longer than the model.

    >>> told = missed(jnp.array([0, 2, 3]), jnp.ones(3, bool), most=2, sensible=9)
    >>> told.rounds.tolist(), told.model.tolist()
    ([[False, False], [True, True], [False, False]], [False, False, True])
    """
    model = active & (away > min(most, sensible))
    ages = jnp.arange(most, dtype=jnp.int32)
    rounds = (active & ~model)[:, None] & (ages[None] < away[:, None])
    return Missed(rounds, model)


def fed_zeroth_order(
    task: Task,
    *,
    client_optimizer: optax.GradientTransformation,
    directions: int = 10,
    smoothing: float = 1e-3,
    draw: Directions | None = None,
    central: bool = False,
    kept: int = 1024,
    uplink: Compressor | None = None,
    execution: Execution | None = None,
    keep_messages: bool = False,
) -> Algorithm:
    """Federated zeroth-order descent, `S P` numbers a client and round each way.

    An estimate's variance grows with the number of parameters `n`: for a gradient `v`
    and `P` Gaussian directions the mean of `||estimate||^2` is `(n + P + 1) / P
    ||v||^2`. So learning rates must be some `(n + P + 1) / P` times smaller than SGD's,
    and rounds as many times more, unless only few dimensions have curvature.

    **What is sent.** Up, the `[S, P]` numbers through `uplink`: 32 bits each with
    `identity()`. Down, to each active client, one message of `32 S P` bits for every
    round since it was last active (since the first, if it never was: all know how the
    initial model was drawn); the kind is `"downlink"`. One that lacks more rounds than
    are kept, `kept // (S P)`, or than would be shorter than the model, `n // (S P)`, is
    sent the model, of the kind `"models"`. Keys cost nothing: both ends derive them
    from the round's. The last round's `s` is sent in the next.

    **What is exact.** A client computes `w` by `replay` of the numbers it was sent: the
    same operations in the same order as the server's. With `draw=signs()` each of them
    is one correctly rounded sum, with the same bits wherever subnormal numbers are
    treated alike. Gaussian numbers need a logarithm, which compilers may approximate
    differently: two machines may differ by rounding errors, until the next whole model
    is sent. A run simulates one machine: its clients train from the server's `w`, and
    rebuild nothing. Neither end takes a step to a value that is not finite.

    A client with fewer batches than `S` sends zeros for the missing steps, and their
    bits are counted. The uplink must have no memory: coordinate `(k, p)` is another
    direction in every round, so what was lost in one round says nothing of the next.

    Args:
      task: the model and its loss.
      client_optimizer: `optax.sgd(eta)`, plain; `ClientBatches.rate` multiplies it, and
        is in the numbers that are sent.
      directions: `P`, of every step.
      smoothing: `mu`; where it is too small, a difference of two float32 losses has no
        digits left: its error is some `1e-7 loss / mu`.
      draw: the directions, `gaussian()` when None; `signs()` or `coordinates()` of
        `fedjax_comp.client.zeroth_order`.
      central: differences to both sides, `2 P` losses a step in place of `P + 1`.
      kept: numbers of past rounds that the server keeps.
      uplink: compressor of a `[S, P]` array; `identity()` when None.
      execution: how a cohort is run; `scanned()` when None.
      keep_messages: return every message in `RoundInfo.messages`, for an audit.

    Returns:
      An `Algorithm` of `ServerState` and `ClientState`. `S` is the cohort's, the same
      in all rounds. `RoundInfo.observed` has `"evaluations"`, how many losses of a
      batch the clients evaluated.

    Raises:
      ValueError: for numbers out of range and an optimizer that is not plain SGD; from
        `init` for a model with running statistics; from a round for an uplink with
        memory, and for `S P` above `kept`.

    >>> from fedjax_comp.models import classification, linear
    >>> task = classification(linear()(num_classes=10), input_shape=(8, 8, 1))
    >>> algorithm = fed_zeroth_order(task, client_optimizer=optax.sgd(0.01))
    >>> server, _ = algorithm.init(jax.random.key(0), task.init(jax.random.key(1)))
    >>> sum(x.size for x in jax.tree.leaves(algorithm.params(server)))
    650
    """
    why = "of fed_zeroth_order(), whose server takes the same steps"
    rate = plain_rate(client_optimizer, why)
    kept = checks.integer("kept", kept, minimum=1)
    drawn = gaussian() if draw is None else checks.takes("draw", draw, 3)
    walk = zeroth_order_steps(
        task,
        rate=rate,
        draw=drawn,
        directions=directions,
        smoothing=smoothing,
        central=central,
    )
    up, plain = given("uplink", uplink), identity()
    each_step = evaluations(directions, central=central)
    run_cohort = given_execution(execution)

    def init(key: jax.Array, params: PyTree) -> tuple[ServerState, ClientState]:
        del key
        checks.gradients_alone("fed_zeroth_order()", params)
        past = jnp.zeros(kept, jnp.float32)
        return ServerState(params, jnp.int32(0), past), ClientState(jnp.int32(0))

    def client_fn(
        shared: tuple[PyTree, jax.Array, jax.Array, Examples],
        client: tuple[ClientBatches, jax.Array],
    ) -> tuple[Summand, Sent]:
        params, direction_key, up_key, examples = shared
        batches, rank = client
        walked = walk(params, direction_key, examples, batches)
        summand, (_, sent) = send(
            up,
            make_context(up_key, batches.client_id, rank),
            walked.scalars,
            up.init(walked.scalars),
            batches=batches,
            info=walked.info,
            keep_message=keep_messages,
        )
        return summand, sent

    def run_round(
        key: jax.Array, server: ServerState, clients: ClientState, cohort: Cohort
    ) -> tuple[ServerState, ClientState, RoundInfo]:
        ids, active = cohort.clients.client_id, cohort.clients.active
        steps = cohort.clients.rows.shape[1]
        length = steps * directions
        if length > kept:
            raise ValueError(
                f"Expected kept={kept} >= {length}, the numbers of a round of {steps} "
                f"local steps with directions={directions}: make it kept={length}, or "
                "more for clients that come back later."
            )
        checks.memoryless(
            up,
            jax.ShapeDtypeStruct((steps, directions), jnp.float32),
            "as the uplink of fed_zeroth_order(), whose numbers belong to other "
            "directions in every round.",
        )
        most = kept // length
        down_key, up_key, direction_key = jax.random.split(key, 3)
        total, sent = run_cohort(client_fn)(
            (server.params, direction_key, up_key, cohort.examples),
            (cohort.clients, jnp.arange(active.shape[0], dtype=jnp.int32)),
        )
        mean = weighted_mean(total.update)
        after = replay(server.params, direction_key, mean, rate=rate, draw=drawn)
        needed = missed(
            server.rounds - clients.heard,
            active,
            most=most,
            sensible=tree.size(server.params) // length,
        )
        context = make_context(down_key, 0)
        rounds = server.past[: most * length].reshape(most, steps, directions)
        whole = broadcast(plain, context, server.params, _MEMORYLESS)
        info = round_info(
            total,
            sent,
            _heard_rounds(needed.rounds, ids, bits_each=32 * length),
            _spoken_rounds(context, rounds, needed.rounds) if keep_messages else None,
            after.refused,
            **{
                "evaluations": Observed(total.info.steps * each_step),
                UPDATES_SENT: Observed(sent.spoke.sum(dtype=jnp.float32)),
                MODELS_TOLD: Observed(active.sum(dtype=jnp.float32)),
            },
        )
        info.traffic["models"] = whole.traffic(needed.model, ids)
        if keep_messages:
            info.messages["models"] = whole.messages(needed.model.any())
        past = jnp.concatenate([mean.reshape(-1), server.past[:-length]])
        heard = jnp.where(active, server.rounds, clients.heard)
        return (
            ServerState(after.params, server.rounds + 1, past),
            ClientState(heard),
            info,
        )

    return Algorithm(init, run_round, params=lambda server: server.params)


def zeroth_order_links(uplink: Compressor) -> dict[str, Compressor]:
    """The compressor of every kind of message of `fed_zeroth_order`, for audits."""
    return {"uplink": uplink, "downlink": identity(), "models": identity()}


def _heard_rounds(rounds: jax.Array, ids: jax.Array, *, bits_each: int) -> Traffic:
    """A message for every client and round that it is sent, `[C R]`."""
    receivers = to_client(jnp.repeat(ids, rounds.shape[1]))
    return Traffic(Bits(bits_each), rounds.reshape(-1), receivers)


def _spoken_rounds(context: Context, past: jax.Array, rounds: jax.Array) -> Messages:
    """The same, once for each round that anyone is sent, `[R]`."""
    most = past.shape[0]
    return Messages(
        context=jax.tree.map(lambda x: jnp.broadcast_to(x, (most, *x.shape)), context),
        payload=past,
        receiver=(),
        spoke=rounds.any(axis=0),
        ends=to_client(jnp.full(most, EVERYONE)),
        used=past,
    )


_MEMORYLESS = LinkState(sender=(), receiver=())
