"""Which examples to send: scores, thresholds, and weights that avoid bias.

An example of score s is sent with probability p = min(1, s / tau) and weight 1 / p, so
that sums over a batch keep their expectation (Horvitz and Thompson 1952). The weight is
sent in six bits: p is first rounded up to `2**(-e / 8)`, and the example is sent with
the rounded probability, so that rounding adds no bias.

Source: Hanna, Ezzeldin, Fragouli and Diggavi, "Quantizing data for distributed
learning" (arXiv 2012.07913), of which only the abstract was read ("a layer that decides
by importance whether to send a sample"): scores, rule and thresholds are our
reconstruction.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_comp.algorithms.links.example_link import STEPS_PER_OCTAVE, WEIGHTS
from fedjax_comp.base import Examples, PyTree, Task
from fedjax_comp.compress import noise

Score = Callable[[Task, PyTree, Examples, jax.Array, jax.Array], jax.Array]
"""`(task, params, examples, mask[M], key) -> scores[M]`, at least 0; 0 where masked.
The key is what the task's loss draws by."""

GAIN = 1.0
"""By how much the logarithm of a tuned threshold follows an error in the rate."""


class Importance(NamedTuple):
    """An importance layer.

    Attributes:
      score: how much each example matters.
      init: `() -> state`, the threshold's memory at one client.
      threshold: `(state, scores[M], mask[M]) -> tau`.
      update: `(state, tau, sent_rate) -> state`, after probabilities were chosen.
    """

    score: Score
    init: Callable[[], PyTree]
    threshold: Callable[[PyTree, jax.Array, jax.Array], jax.Array]
    update: Callable[[PyTree, jax.Array, jax.Array], PyTree]


def importance(
    score: Score, *, tau: float | None = None, rate: float | None = None
) -> Importance:
    """An importance layer with a fixed threshold, or one tuned to a rate.

    A tuned threshold is a client's own: it begins at `level_for_rate` of the first
    batch, and then `log tau` grows by the difference between the mean probability of
    each batch and the rate.

    Args:
      score: `loss_score()`, `gradient_norm()` or `gradient_norm(layer=...)`.
      tau: the fixed threshold, positive: examples of this score or more are all sent.
      rate: or the share of examples to be sent on average, in (0, 1).

    Returns:
      An `Importance`.

    Raises:
      ValueError: unless exactly one of `tau` and `rate` is given, and in its range.

    >>> importance(loss_score(), tau=2.0).threshold((), jnp.ones(3), jnp.ones(3, bool))
    Array(2., dtype=float32)
    """
    if (tau is None) == (rate is None):
        raise ValueError(f"Expected either tau or rate, got tau={tau} and rate={rate}.")
    if tau is not None:
        if not (math.isfinite(tau) and tau > 0):
            raise ValueError(f"Expected a finite tau={tau} > 0.")
        fixed = float(tau)
        return Importance(
            score,
            init=lambda: (),
            threshold=lambda state, scores, mask: jnp.float32(fixed),
            update=lambda state, tau, sent_rate: state,
        )
    target = float(rate or 0.0)
    if not 0 < target < 1:
        raise ValueError(f"Expected rate={rate} in (0, 1); leave the layer out for 1.")

    def threshold(state: jax.Array, scores: jax.Array, mask: jax.Array) -> jax.Array:
        return jnp.where(state > 0, state, level_for_rate(scores, mask, target))

    def update(state: jax.Array, tau: jax.Array, sent_rate: jax.Array) -> jax.Array:
        del state
        return tau * jnp.exp(GAIN * (sent_rate - target))

    return Importance(score, lambda: jnp.zeros((), jnp.float32), threshold, update)


def probability_exponents(scores: jax.Array, tau: jax.Array) -> jax.Array:
    """`e` of the probability `2**(-e / 8)` that is `min(1, score / tau)` rounded up.

    Args:
      scores: float32 `[M]`, at least 0.
      tau: threshold, at least 0; 0 sends everything.

    Returns:
      uint8 `[M]` in `[0, 64)`: no probability is below `2**(-63 / 8)`, about 0.4 %.

    >>> probability_exponents(jnp.array([9.0, 1.0, 0.26, 0.0]), jnp.float32(1.0))
    Array([ 0,  0, 15, 63], dtype=uint8)
    """
    share = jnp.where(scores >= tau, 1.0, scores / jnp.where(tau > 0, tau, 1.0))
    exponent = jnp.floor(-STEPS_PER_OCTAVE * jnp.log2(share))
    return jnp.clip(exponent, 0, WEIGHTS - 1).astype(jnp.uint8)


def draw(key: jax.Array, exponents: jax.Array) -> jax.Array:
    """Which examples are sent, each with probability `2**(-e / 8)`: bool `[M]`.

    >>> draw(jax.random.key(0), jnp.zeros(3, jnp.uint8)).tolist()
    [True, True, True]
    """
    probability = jnp.exp2(-exponents.astype(jnp.float32) / STEPS_PER_OCTAVE)
    return noise.uniform(key, exponents.shape) < probability


def level_for_rate(scores: jax.Array, mask: jax.Array, rate: float) -> jax.Array:
    """The threshold at which the mean of `min(1, score / tau)` is `rate`.

        tau = sum_{i > k} s_i / (rate M - k)   for the least k with s_(k+1) <= tau,

    scores in descending order: those before k are sent for certain.

    Args:
      scores: float32 `[M]`, at least 0.
      mask: bool `[M]`, which ones count.
      rate: in (0, 1).

    Returns:
      float32 scalar; 0 where no score is positive.

    >>> scores = jnp.array([8.0, 1.0, 1.0, 2.0])
    >>> tau = level_for_rate(scores, jnp.ones(4, bool), 0.5)
    >>> float(tau), float(jnp.minimum(1, scores / tau).mean())
    (4.0, 0.5)
    """
    known = jnp.where(mask, scores, 0)
    largest_first = -jnp.sort(-known)
    # sums[k]: of all but the k largest.
    sums = jnp.cumsum(largest_first[::-1])[::-1]
    budget = rate * mask.sum(dtype=jnp.float32)
    left = budget - jnp.arange(known.shape[0], dtype=jnp.float32)
    level = jnp.where(left > 0, sums / jnp.where(left > 0, left, 1.0), 0.0)
    fits = (left > 0) & (largest_first <= level)
    return jnp.where(fits.any(), level[jnp.argmax(fits)], 0.0)


def loss_score() -> Score:
    """The loss of each example: one forward pass."""

    def score(
        task: Task,
        params: PyTree,
        examples: Examples,
        mask: jax.Array,
        key: jax.Array,
    ) -> jax.Array:
        return each_loss(task, params, examples, mask, key)

    return score


def gradient_norm(layer: str | None = None) -> Score:
    """The norm of each example's gradient, of all parameters or of one layer.

    The last layer's gradient needs no backward pass through the others and bounds the
    whole gradient's norm well (Katharopoulos and Fleuret 2018, "Not all samples are
    created equal", section 3.2).

    Args:
      layer: name of a top-level entry of the parameters, such as "Dense_1"; None for
        all of them, which costs a backward pass for each example on its own.

    Returns:
      A `Score`; it raises `ValueError` when there is no such layer.
    """

    def score(
        task: Task,
        params: PyTree,
        examples: Examples,
        mask: jax.Array,
        key: jax.Array,
    ) -> jax.Array:
        if layer is not None and layer not in params:
            raise ValueError(f"Expected layer={layer!r} to be one of {list(params)}.")
        chosen = params if layer is None else params[layer]

        def norm(one: tuple[Examples, jax.Array]) -> jax.Array:
            example, counted = one

            def loss(chosen: PyTree) -> jax.Array:
                whole = chosen if layer is None else {**params, layer: chosen}
                return task.loss(whole, example, counted, key)

            return optax.tree.norm(jax.grad(loss)(chosen)).astype(jnp.float32)

        singles = _singles(examples, mask)
        if layer is None:
            # One after another: side by side they would hold a gradient each.
            return jax.lax.map(norm, singles)
        return jax.vmap(norm)(singles)

    return score


def each_loss(
    task: Task, params: PyTree, examples: Examples, mask: jax.Array, key: jax.Array
) -> jax.Array:
    """The loss of each example by itself, float32 `[M]`, 0 where masked."""

    def one(single: tuple[Examples, jax.Array]) -> jax.Array:
        return task.loss(params, *single, key).astype(jnp.float32)

    return jnp.where(mask, jax.vmap(one)(_singles(examples, mask)), 0)


def _singles(examples: Examples, mask: jax.Array) -> tuple[Examples, jax.Array]:
    """Batches of one, `[M, 1, ...]`."""
    return jax.tree.map(lambda leaf: leaf[:, None], (examples, mask))
