"""Local training: a client's epochs of mini-batch gradient descent in one scan.

Source: McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks from
Decentralized Data", Algorithm 1 (ClientUpdate); the proximal term is FedProx, Li et al.
2020, "Federated Optimization in Heterogeneous Networks", equation 2.
"""

import contextlib
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_comp import checks
from fedjax_comp.base import ClientBatches, Examples, PyTree, Task


class LocalInfo(NamedTuple):
    """What is observed of one client's training.

    Attributes:
      loss_sum: sum over the examples used of the loss when each was used, float32.
      examples_used: number of examples used, counting epochs, float32.
      steps: optimizer steps taken, int32.
    """

    loss_sum: jax.Array
    examples_used: jax.Array
    steps: jax.Array


def mean_loss(info: LocalInfo) -> jax.Array:
    """The mean loss over the examples used; NaN where there was none.

    >>> float(mean_loss(LocalInfo(jnp.float32(6), jnp.float32(4), jnp.int32(2))))
    1.5
    >>> float(mean_loss(LocalInfo(jnp.float32(0), jnp.float32(0), jnp.int32(0))))
    nan
    """
    return info.loss_sum / info.examples_used


LocalUpdate = Callable[[PyTree, Examples, ClientBatches], tuple[PyTree, LocalInfo]]
"""`(params, examples, batches) -> (params, LocalInfo)`: one client's local training."""


class Learner(NamedTuple):
    """A model that continues to learn: its parameters and its optimizer's state."""

    params: PyTree
    optimizer_state: PyTree


def local_sgd(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    proximal: float = 0.0,
    unroll: int = 1,
) -> LocalUpdate:
    """Local training with any optax optimizer, started afresh every round.

    Each step takes the batch of examples `rows[s]` and does
    `w <- optimizer(w, grad of loss(w; batch) + proximal * (w - w_0))`. A step whose
    mask is empty changes nothing (and costs no more than its rows
    under `scanned`).

    Args:
      task: the model and its loss.
      optimizer: the client optimizer.
      proximal: FedProx's mu, at least 0; 0 is plain SGD.
      unroll: steps unrolled into one iteration of the scan: changes only the speed.

    Returns:
      A `LocalUpdate`.

    Raises:
      ValueError: for a proximal term that is negative or not finite, and for an
        optimizer with a schedule, which would begin anew every round.

    >>> import jax, jax.numpy as jnp, optax
    >>> from fedjax_comp.base import ClientBatches, Examples, Task
    >>> fit = Task(None, lambda w, e, mask, key: jnp.mean((w - e.y) ** 2), None)
    >>> mask, key = jnp.ones((2, 1), bool), jax.random.key(0)
    >>> batches = ClientBatches(0, jnp.array([[0], [1]]), mask, 2, jnp.array(True), key)
    >>> data = Examples(x=jnp.zeros(2), y=jnp.array([1.0, 1.0]))
    >>> w, info = local_sgd(fit, optax.sgd(0.25))(jnp.array(0.0), data, batches)
    >>> float(w), int(info.steps)
    (0.75, 2)
    """
    train = local_steps(task, optimizer, proximal=proximal, unroll=unroll)
    refuse_schedules(optimizer)

    def update(
        params: PyTree, examples: Examples, batches: ClientBatches
    ) -> tuple[PyTree, LocalInfo]:
        refuse_schedules(optimizer, params)
        learner, info = train(
            Learner(params, optimizer.init(params)), examples, batches
        )
        return learner.params, info

    return update


def refuse_schedules(
    optimizer: optax.GradientTransformation,
    params: PyTree | None = None,
    *,
    what: str = "client optimizer",
) -> None:
    """Refuses an optimizer with a schedule where its state begins anew every round.

    Args:
      optimizer: what is started afresh.
      params: what it optimizes; None where a factory has yet to see them. An optimizer
        that needs them to be inspected, such as `optax.multi_transform`, then passes.
      what: its name, for the message.

    Raises:
      ValueError: for such an optimizer.
    """
    kept: PyTree = ()
    with contextlib.suppress(TypeError, LookupError, AttributeError, ValueError):
        kept = jax.eval_shape(
            optimizer.init, jnp.zeros(1, jnp.float32) if params is None else params
        )

    def is_schedule(one: object) -> bool:
        # The second is `optax.inject_hyperparams`, where a hyperparameter is one.
        injected = getattr(one, "hyperparams_states", None)
        return isinstance(one, optax.ScaleByScheduleState) or bool(injected)

    if any(map(is_schedule, jax.tree.leaves(kept, is_leaf=is_schedule))):
        raise ValueError(
            f"Expected a {what} without a schedule: its state begins anew every round, "
            "and so would the schedule. Give a number for its rate, and the schedule "
            "over the rounds as --client_schedule (`scheduled_rates`); an optimizer "
            "whose state lasts, as that of fed_avg's server, may have one itself."
        )


def plain_rate(optimizer: optax.GradientTransformation, why: str) -> float:
    """The rate of plain SGD, found by applying the optimizer to a few gradients.

    Args:
      optimizer: `optax.sgd(rate)`, or another that multiplies by a number below 0.
      why: whose optimizer it is, and why it must be plain, in the words that follow "as
        the client optimizer ".

    Raises:
      ValueError: for one with memory, a decay, clipping, a schedule, rates that differ
        between parameters, or no rate above 0.

    >>> plain_rate(optax.sgd(0.5), "here")
    0.5
    """
    checks.optimizer("the client optimizer", optimizer)
    refuse_schedules(optimizer)
    gradient = jnp.array([1.0, -2.0, 1e-3, 1e3], jnp.float32)
    params = jnp.ones_like(gradient)
    factors = jnp.zeros(1)
    with contextlib.suppress(TypeError, LookupError, AttributeError, ValueError):
        state = optimizer.init(params)
        if not jax.tree.leaves(state):
            moves = [
                optimizer.update(size * gradient, state, params)[0] / (size * gradient)
                for size in (1.0, 1e-6)
            ]
            factors = -jnp.concatenate(moves)
    rate = float(factors[0])
    if not (math.isfinite(rate) and rate > 0 and jnp.allclose(factors, rate, 1e-5, 0)):
        raise ValueError(
            f"Expected a plain optax.sgd(rate), rate > 0, as the client optimizer "
            f"{why}: no memory, decay or clipping."
        )
    return rate


def at_rate(updates: PyTree, rate: jax.Array | None) -> PyTree:
    """An optimizer's step times `ClientBatches.rate`, which is 1 where it is None.

    >>> at_rate(jnp.array([2.0]), jnp.float32(0.5)).tolist()
    [1.0]
    """
    if rate is None:
        return updates
    return jax.tree.map(lambda x: rate.astype(x.dtype) * x, updates)


def local_steps(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    proximal: float = 0.0,
    unroll: int = 1,
) -> Callable[[Learner, Examples, ClientBatches], tuple[Learner, LocalInfo]]:
    """As `local_sgd`, for a learner that keeps its optimizer's state between rounds.

    `LocalInfo.loss_sum` holds each batch's loss before the step on it: summed over a
    stream that is the prequential (test, then train) loss.

    Args:
      task: the model and its loss.
      optimizer: the learner's optimizer.
      proximal: pull towards the parameters at the start, at least 0.
      unroll: steps unrolled into one iteration of the scan.

    Returns:
      `(learner, examples, batches) -> (learner, LocalInfo)`.

    Raises:
      ValueError: for a proximal term that is negative or not finite, and for anything
        but an optimizer.
    """
    checks.optimizer("the client optimizer", optimizer)
    if not (checks.is_finite(proximal) and proximal >= 0):
        raise ValueError(f"Expected a finite proximal={proximal!r} >= 0.")

    def train(
        learner: Learner, examples: Examples, batches: ClientBatches
    ) -> tuple[Learner, LocalInfo]:
        start = learner.params

        def take_step(
            carry: tuple[Learner, LocalInfo],
            batch: Examples,
            mask: jax.Array,
            number: jax.Array,
        ) -> tuple[Learner, LocalInfo]:
            (params, opt_state), info = carry
            key = jax.random.fold_in(batches.key, number)
            loss, grads = jax.value_and_grad(task.loss)(params, batch, mask, key)
            if proximal:
                grads = jax.tree.map(
                    lambda g, w, w0: g + proximal * (w - w0), grads, params, start
                )
            updates, opt_state = optimizer.update(grads, opt_state, params)
            updates = at_rate(updates, batches.rate)
            used = jnp.sum(mask, dtype=jnp.float32)
            info = LocalInfo(
                loss_sum=info.loss_sum + loss.astype(jnp.float32) * used,
                examples_used=info.examples_used + used,
                steps=info.steps + 1,
            )
            moved = optax.apply_updates(params, updates)
            if task.observe is not None:
                moved = task.observe(params, moved, batch, mask, key)
            return Learner(moved, opt_state), info

        def step(
            carry: tuple[Learner, LocalInfo],
            batch: tuple[jax.Array, jax.Array, jax.Array],
        ) -> tuple[tuple[Learner, LocalInfo], None]:
            rows, mask, number = batch
            # Not inside the branch: under `jax.vmap` all that a branch sees is copied
            # for every client, and that would be the examples of all.
            taken = jax.lax.cond(
                jnp.any(mask) & batches.active,
                take_step,
                lambda carry, own, mask, number: carry,
                carry,
                jax.tree.map(lambda x: x[rows], examples),
                mask,
                number,
            )
            return taken, None

        zero = jnp.zeros((), jnp.float32)
        nothing = LocalInfo(zero, zero, jnp.zeros((), jnp.int32))
        numbers = jnp.arange(batches.rows.shape[0], dtype=jnp.int32)
        batch = (batches.rows, batches.mask, numbers)
        trained, _ = jax.lax.scan(step, (learner, nothing), batch, unroll=unroll)
        return trained

    return train
