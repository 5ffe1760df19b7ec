"""Scaffnew: a random number of local steps, corrected by control variates.

Mishchenko, Malinovsky, Stich and Richtárik 2022, "ProxSkip: Yes! Local gradient steps
provably lead to communication acceleration! Finally!" (arXiv 2202.09357), algorithm 2.
There a coin that all clients share decides after every step whether they average. Here
a round is what lies between two averages, and its number of steps is drawn once, before
it begins. Weights by numbers of examples are ours: they are a change of inner product,
under which the paper's theorems hold unchanged.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_comp import checks
from fedjax_comp.algorithms.client_update import Sent, Summand, round_info, send
from fedjax_comp.algorithms.links.given import given_execution
from fedjax_comp.base import (
    Algorithm,
    ClientBatches,
    Cohort,
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
from fedjax_comp.server.aggregate import weighted_mean
from fedjax_comp.server.broadcast import broadcast
from fedjax_comp.tree import (
    all_finite,
    along,
    cast_like,
    settled,
    where,
    widened,
)


class ClientState(NamedTuple):
    """A client's control variate `h_i`, in float32 at least."""

    control: PyTree


class Drawn(NamedTuple):
    """The length of a round.

    Attributes:
      steps: that every client takes, int32 scalar.
      cut: bool scalar, whether the coin would have asked for more.
    """

    steps: jax.Array
    cut: jax.Array


def drawn_steps(key: jax.Array, probability: float, most: int) -> Drawn:
    """How many tosses it takes until a coin comes up, or `most` where it takes more.

        P(T = t) = p (1 - p)^(t - 1),   t = 1, 2, ...

    Args:
      key: of the round, scalar key array.
      probability: `p` of the coin, in (0, 1].
      most: `S`, the steps that there are batches for.

    >>> drawn = drawn_steps(jax.random.key(0), 1.0, 9)
    >>> int(drawn.steps), bool(drawn.cut)
    (1, False)
    """
    tiny = jnp.finfo(jnp.float32).tiny
    uniform = jax.random.uniform(key, (), jnp.float32, minval=tiny)
    tosses = 1 + jnp.floor(jnp.log(uniform) / jnp.log1p(-jnp.float32(probability)))
    return Drawn(jnp.minimum(tosses, most).astype(jnp.int32), tosses > most)


def scaffnew(
    task: Task,
    *,
    client_optimizer: optax.GradientTransformation,
    population: int,
    probability: float,
    execution: Execution | None = None,
    keep_messages: bool = False,
) -> Algorithm:
    """ProxSkip's local gradient descent, of all clients in every round.

        x_i <- x_i - gamma (g_i(x_i) - h_i),   T times from w, T ~ Geom(p)
        w' <- sum_i s_i x_i,   h_i <- h_i + p / gamma (w' - x_i)

    with `s_i` the share of a client in the examples. `sum_i s_i h_i` stays 0, and at
    the optimum `h_i` is the gradient of client `i`, so that no step leaves it. With
    full gradients of `mu`-strongly convex, `L`-smooth losses and `gamma <= 1 / L`

        Psi = sum_i s_i (||x_i - x*||^2 + gamma^2 / p^2 ||h_i - grad f_i(x*)||^2)

    is multiplied by at most `1 - min(gamma mu, p^2)` a step, in expectation (section 3
    of the paper): with `p = sqrt(mu / L)` rounds grow as `sqrt(L / mu)`. `p = 1` is
    distributed gradient descent.

    A round has at most the cohort's `S` steps, a limit that the theorem does not have.
    A round is cut with probability `(1 - p)^S`, and a run in which none was cut is the
    paper's: with `S = 5 / p` 1 round in 148 is cut, with `S = 10 / p` 1 in 22,026. A
    client does not take a step whose batch is empty, which costs a client of few
    examples nothing but speed.

    All clients take part, since the `h_i` of only some do not sum to zero, and would
    move the model. A client that is not active in a round, or is dropped, keeps its
    `h_i`, so that the sum stays what it is. Every client with examples receives every
    model, which it needs to update `h_i`. There are no compressors: `h_i` would add up
    what the links lose, which no theorem covers. (`locodl` has compressors.
    CompressedScaffnew and TAMUNA, with compressors of their own, are other algorithms,
    and so are those in which only some clients take part.)

    Args:
      task: the model and its loss.
      client_optimizer: `optax.sgd(gamma)`, plain.
      population: `K`.
      probability: `p`, that a step is the last of its round, in (0, 1].
      execution: how a cohort is run; `scanned()` when None.
      keep_messages: return every message in `RoundInfo.messages`, for an audit.

    Returns:
      An `Algorithm` whose server keeps the parameters, and clients a `ClientState`.
      Messages are FedAvg's. `RoundInfo.observed` has `"local_steps"`, T, and
      `"cut_short"`, whether S ended it.

    Raises:
      ValueError: for an optimizer that is not plain SGD, a `population` below one or a
        `probability` out of its range; from `init` for a model with running
        statistics; from a round for a cohort that is not all clients, and for rates
        (`ClientBatches.rate`).

    >>> from fedjax_comp.models import classification, linear
    >>> task = classification(linear()(num_classes=10), input_shape=(8, 8, 1))
    >>> algorithm = scaffnew(
    ...     task, client_optimizer=optax.sgd(0.1), population=100, probability=0.1
    ... )
    >>> _, client = algorithm.init(jax.random.key(0), task.init(jax.random.key(1)))
    >>> sum(x.size for x in jax.tree.leaves(client.control))
    650
    """
    checks.integer("population", population, minimum=1)
    checks.fraction("probability", probability)
    why = "of scaffnew(), whose control variates are in units of its rate"
    per_rate = probability / plain_rate(client_optimizer, why)
    link = identity()
    run_cohort = given_execution(execution)

    def init(key: jax.Array, params: PyTree) -> tuple[PyTree, ClientState]:
        del key
        checks.gradients_alone("scaffnew()", params)
        return params, ClientState(optax.tree.zeros_like(widened(params)))

    def client_fn(
        shared: tuple[PyTree, jax.Array, Examples],
        client: tuple[ClientBatches, ClientState, jax.Array],
    ) -> tuple[Summand, tuple[ClientState, jax.Array, Sent]]:
        start, up_key, examples = shared
        batches, state, rank = client
        towards = cast_like(jax.tree.map(jnp.negative, state.control), start)
        optimizer = optax.chain(shifted(towards), client_optimizer)
        learner, info = local_steps(task, optimizer)(
            Learner(start, optimizer.init(start)), examples, batches
        )
        # What is added to `h_i` must be what is sent.
        moved = settled(optax.tree.sub(learner.params, start))
        summand, (_, sent) = send(
            link,
            make_context(up_key, batches.client_id, rank),
            moved,
            _MEMORYLESS,
            batches=batches._replace(active=batches.active & (info.steps > 0)),
            info=info,
            keep_message=keep_messages,
        )
        # What it adds when it hears the mean is the same for all.
        awaiting = jax.tree.map(
            lambda h, d: h - per_rate * d.astype(h.dtype), state.control, moved
        )
        return summand, (ClientState(awaiting), summand.update.weight > 0, sent)

    def run_round(
        key: jax.Array, params: PyTree, clients: ClientState, cohort: Cohort
    ) -> tuple[PyTree, ClientState, RoundInfo]:
        batches = cohort.clients
        check_everyone("scaffnew()", batches, population)
        down_key, up_key, coin_key = jax.random.split(key, 3)
        most = batches.rows.shape[1]
        drawn = drawn_steps(coin_key, probability, most)
        taken = jnp.arange(most, dtype=jnp.int32) < drawn.steps
        said = broadcast(link, make_context(down_key, 0), params, _MEMORYLESS)
        ranks = jnp.arange(population, dtype=jnp.int32)
        total, (awaiting, counted, sent) = run_cohort(client_fn)(
            (said.received, up_key, cohort.examples),
            (
                batches._replace(mask=batches.mask & taken[None, :, None]),
                clients,
                ranks,
            ),
        )
        mean = weighted_mean(total.update)
        after = jax.tree.map(lambda w, d: w + d.astype(w.dtype), params, mean)
        control = jax.tree.map(
            lambda new, d, old: jnp.where(
                along(counted, old), new + per_rate * d.astype(old.dtype)[None], old
            ),
            awaiting.control,
            mean,
            clients.control,
        )
        states = ClientState(control)
        refused = ~all_finite((after, states))
        heard = batches.num_examples > 0
        info = round_info(
            total,
            sent,
            said.traffic(heard, batches.client_id),
            said.messages(heard.any()) if keep_messages else None,
            refused,
            local_steps=Observed(drawn.steps, "mean"),
            cut_short=Observed(drawn.cut),
        )
        return *where(refused, (params, clients), (after, states)), info

    return Algorithm(init, run_round, params=lambda params: params)


def check_everyone(name: str, clients: ClientBatches, population: int) -> None:
    """Checks that a cohort has all clients, and that none has a rate of its own.

    Args:
      name: of the algorithm, for messages.
      clients: the cohort's.
      population: `K`.

    Raises:
      ValueError: for a part of the clients, more than all, and rates.
    """
    size = clients.active.shape[0]
    checks.fits_population(size, population)
    if size < population:
        raise ValueError(
            f"Expected a cohort of all population={population} clients for {name}, "
            f"got {size}: control variates of a part of them do not sum to zero; make "
            f"it cohort_size={population}, or take scaffold()."
        )
    why = "whose control variates last for rounds"
    checks.no_rates(name, clients, why, instead="")


_MEMORYLESS = LinkState(sender=(), receiver=())
