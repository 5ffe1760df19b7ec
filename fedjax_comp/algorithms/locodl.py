"""LoCoDL: Scaffnew's local steps, and messages by any unbiased compressor.

Condat, Maranjyan and Richtárik 2024, "LoCoDL: Communication-efficient distributed
learning with local training and compression" (arXiv 2403.04348, ICLR 2025), algorithm
1. Beside the clients' models there is one more, `y`, which the server and all clients
know and train on a function of its own. A client sends the difference of its model to
`y`. As the models agree this difference vanishes, and with it the compression error.

Weights by numbers of examples, and clients that stay away, are ours.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_comp import checks
from fedjax_comp.algorithms.client_update import Sent, Summand, round_info, send
from fedjax_comp.algorithms.links.given import given_execution
from fedjax_comp.algorithms.scaffnew import check_everyone, drawn_steps
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
    Task,
    make_context,
)
from fedjax_comp.client.corrections import shifted
from fedjax_comp.client.sgd import Learner, local_steps, plain_rate
from fedjax_comp.compress import identity
from fedjax_comp.server.aggregate import share, weighted_mean
from fedjax_comp.server.broadcast import broadcast
from fedjax_comp.tree import all_finite, along, cast_like, settled, where, widened


class ServerState(NamedTuple):
    """What all know; the clients' copies are the same.

    Attributes:
      params: `y`, the model.
      control: `v`, its control variate, in float32 at least.
    """

    params: PyTree
    control: PyTree


class ClientState(NamedTuple):
    """What a client keeps, in float32 at least.

    Attributes:
      params: `x_i`, its model.
      control: `u_i`, its control variate.
    """

    params: PyTree
    control: PyTree


class _Shared(NamedTuple):
    ahead: PyTree
    rho: jax.Array
    uplink_key: jax.Array
    examples: Examples


def locodl(
    task: Task,
    *,
    client_optimizer: optax.GradientTransformation,
    uplink: Compressor,
    population: int,
    probability: float,
    omega: float,
    curvature: float = 0.0,
    execution: Execution | None = None,
    keep_messages: bool = False,
) -> Algorithm:
    """LoCoDL's local gradient descent and compressed differences, of all clients.

        x_i <- x_i - gamma (g_i(x_i) - m x_i - u_i)     T times, T ~ Geom(p),
        y   <- y - gamma (m y - v)                      T times,
        d_i = C(x_i - y),   d = sum_i s_i d_i / 2,
        x_i <- (1 - rho) x_i + rho (y + d),   u_i <- u_i + c (d - d_i),
        y   <- y + rho d,                     v   <- v + c d,

    with `s_i` the share of a client in the examples, `c = p rho / (gamma (1 + 2
    omega))` and `rho = 1 / (1 + omega max s_i)`, which is the paper's choice, `1 / (1 +
    omega / n)`, where shares are equal. `sum_i s_i u_i + v` stays 0. The losses are the
    task's: a quadratic of curvature `m` is taken from each and given to `y`.

    With full gradients of `mu`-strongly convex, `L`-smooth losses, `0 < m < mu` and
    `gamma <= 1 / L` (theorem 3.1)

        Psi = (sum_i s_i ||x_i - x*||^2 + ||y - x*||^2) / gamma + gamma (1 + 2 omega)
              / (p^2 rho) (sum_i s_i ||u_i - u_i*||^2 + ||v - v*||^2)

    is multiplied by at most `max((1 - gamma min(m, mu - m))^2, 1 - p^2 rho / (1 + 2
    omega))` a step, in expectation, `u_i*` and `v*` being the gradients at the optimum
    `x*` of what `x_i` and `y` train on. `m = mu / 2` is the best; with `m = 0`, as for
    networks, no theorem holds.

    Rounds are drawn and cut as `scaffnew`'s. A client that is not active, or is
    dropped, keeps its model and its `u_i`, and `v` moves by the others' share of `c d`,
    so that the sum stays 0. The downlink carries `d`, dense, to every client with
    examples. The initial model is not sent: all know it, like one drawn from a common
    seed.

    What to expect: on quadratics with curvatures from 1 / 400 to 1 and 20 clients, each
    algorithm with the probability of its theorem, `natural_compression()` takes less
    than half of Scaffnew's bits up to the same error (a test asks for it).
    `random_k(0.1)` saved nothing there: 5,088 numbers for 4,400 (2026-11-30).

    Args:
      task: the model and its loss.
      client_optimizer: `optax.sgd(gamma)`, plain.
      uplink: `C`, unbiased, without memory; messages of different clients and rounds
        must be lossy independently, as those of all compressors here are.
      population: `K`.
      probability: `p`, that a step is the last of its round, in (0, 1].
      omega: of `E ||C(x) - x||^2 <= omega ||x||^2`, at least 0: of `identity()` 0, of
        `random_k(f)` `1 / f - 1`. Too small a number may diverge.
      curvature: `m`, at least 0.
      execution: how a cohort is run; `scanned()` when None.
      keep_messages: return every message in `RoundInfo.messages`, for an audit.

    Returns:
      An `Algorithm` of `ServerState` and `ClientState`. `RoundInfo.observed` is as for
      `scaffnew`.

    Raises:
      ValueError: for an optimizer that is not plain SGD, an argument out of its range,
        or a `curvature` of 1 over the rate or more; from `init` for a model with
        running statistics and an uplink with memory; from a round for a cohort that is
        not all clients, and for rates (`ClientBatches.rate`).

    >>> from fedjax_comp.compress import random_k
    >>> from fedjax_comp.models import classification, linear
    >>> task = classification(linear()(num_classes=10), input_shape=(8, 8, 1))
    >>> algorithm = locodl(
    ...     task,
    ...     client_optimizer=optax.sgd(0.1),
    ...     uplink=random_k(0.1),
    ...     population=100,
    ...     probability=0.1,
    ...     omega=9.0,
    ... )
    >>> _, client = algorithm.init(jax.random.key(0), task.init(jax.random.key(1)))
    >>> sum(x.size for x in jax.tree.leaves(client))
    1300
    """
    checks.integer("population", population, minimum=1)
    checks.fraction("probability", probability)
    checks.compressor("uplink", uplink)
    omega = checks.number("omega", omega, minimum=0.0, below=math.inf)
    why = "of locodl(), whose control variates are in units of its rate"
    rate = plain_rate(client_optimizer, why)
    curvature = checks.number("curvature", curvature, minimum=0.0, below=1 / rate)
    downlink = identity()
    run_cohort = given_execution(execution)

    def memoryless(params: PyTree) -> LinkState:
        why = "as the uplink of locodl(): it is unbiased."
        return checks.memoryless(uplink, params, why)

    def init(key: jax.Array, params: PyTree) -> tuple[ServerState, ClientState]:
        del key
        checks.gradients_alone("locodl()", params)
        memoryless(params)
        zeros = optax.tree.zeros_like(widened(params))
        # Two copies: programs may take over the arrays of a state.
        own = jax.tree.map(jnp.copy, widened(params))
        return ServerState(params, zeros), ClientState(
            own, jax.tree.map(jnp.copy, zeros)
        )

    def client_fn(
        shared: _Shared, client: tuple[ClientBatches, ClientState, jax.Array]
    ) -> tuple[Summand, tuple[ClientState, jax.Array, Sent]]:
        ahead, rho, up_key, examples = shared
        batches, state, rank = client
        start = cast_like(state.params, ahead)
        towards = cast_like(jax.tree.map(jnp.negative, state.control), start)
        optimizer = optax.chain(
            shifted(towards), optax.add_decayed_weights(-curvature), client_optimizer
        )
        learner, info = local_steps(task, optimizer)(
            Learner(start, optimizer.init(start)), examples, batches
        )
        # Moved from what it was in full precision, whatever the steps were taken in.
        moved = widened(optax.tree.sub(learner.params, start))
        own = optax.tree.add(state.params, moved)
        differs = settled(cast_like(optax.tree.sub(own, widened(ahead)), ahead))
        summand, (_, sent) = send(
            uplink,
            make_context(up_key, batches.client_id, rank),
            differs,
            memoryless(ahead),
            batches=batches._replace(active=batches.active & (info.steps > 0)),
            info=info,
            keep_message=True,
        )
        assert sent.messages is not None
        said = widened(sent.messages.used)
        # What it adds when it hears the mean is the same for all.
        awaiting = ClientState(
            jax.tree.map(lambda x, y: (1 - rho) * x + rho * y, own, widened(ahead)),
            jax.tree.map(lambda u, d: u - per_rate(rho) * d, state.control, said),
        )
        if not keep_messages:
            sent = sent._replace(messages=None)
        return summand, (awaiting, summand.update.weight > 0, sent)

    def per_rate(rho: jax.Array) -> jax.Array:
        """`c`."""
        return probability * rho / (rate * (1 + 2 * omega))

    def stepped(server: ServerState, steps: jax.Array) -> PyTree:
        """`y` after its steps, in closed form: a sum of powers of `1 - gamma m`."""
        count = steps.astype(jnp.float32)
        power = count * math.log1p(-rate * curvature)
        reach = count * rate if curvature == 0 else -jnp.expm1(power) / curvature
        return jax.tree.map(
            lambda y, v: (jnp.exp(power) * y.astype(v.dtype) + reach * v).astype(
                y.dtype
            ),
            server.params,
            server.control,
        )

    def run_round(
        key: jax.Array, server: ServerState, clients: ClientState, cohort: Cohort
    ) -> tuple[ServerState, ClientState, RoundInfo]:
        batches = cohort.clients
        check_everyone("locodl()", batches, population)
        down_key, up_key, coin_key = jax.random.split(key, 3)
        most = batches.rows.shape[1]
        drawn = drawn_steps(coin_key, probability, most)
        taken = jnp.arange(most, dtype=jnp.int32) < drawn.steps
        weights = share(batches.num_examples)
        everything = jnp.sum(weights)
        rho = 1 / (1 + omega * jnp.max(weights) / everything)
        ahead = stepped(server, drawn.steps)
        total, (awaiting, counted, sent) = run_cohort(client_fn)(
            _Shared(ahead, rho, up_key, cohort.examples),
            (
                batches._replace(mask=batches.mask & taken[None, :, None]),
                clients,
                jnp.arange(population, dtype=jnp.int32),
            ),
        )
        half = jax.tree.map(
            lambda d: d / 2, weighted_mean(total.update, widened(server.params))
        )
        said = broadcast(
            downlink, make_context(down_key, 0), half, LinkState(sender=(), receiver=())
        )
        answered = total.update.weight / everything
        after = ServerState(
            jax.tree.map(
                lambda y, d: (y.astype(d.dtype) + rho * d).astype(y.dtype), ahead, half
            ),
            jax.tree.map(
                lambda v, d: v + answered * per_rate(rho) * d, server.control, half
            ),
        )
        steps = rho, per_rate(rho)
        states = ClientState(
            *(
                jax.tree.map(
                    lambda new, d, old, step=step: jnp.where(
                        along(counted, old), new + step * d[None], old
                    ),
                    news,
                    half,
                    olds,
                )
                for news, olds, step in zip(awaiting, clients, steps, strict=True)
            )
        )
        refused = ~all_finite((after, states))
        anyone = total.update.weight > 0
        heard = (batches.num_examples > 0) & anyone
        info = round_info(
            total,
            sent,
            said.traffic(heard, batches.client_id),
            said.messages(anyone) if keep_messages else None,
            refused,
            local_steps=Observed(drawn.steps, "mean"),
            cut_short=Observed(drawn.cut),
        )
        return *where(refused, (server, clients), (after, states)), info

    return Algorithm(init, run_round, params=lambda server: server.params)
