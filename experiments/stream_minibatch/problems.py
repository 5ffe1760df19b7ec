"""The two problems: streaming PCA's leading direction, and logistic regression."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from fedjax_comp.algorithms.stream_minibatch import angle_error, krasulina_task
from fedjax_comp.base import Examples, Sums, Task
from fedjax_comp.data.arrivals import Synthetic, synthetic
from fedjax_comp.experiment.main import UsageError
from fedjax_comp.keys import make_key


class StreamProblem(NamedTuple):
    """What is learned, from which streams, and how far it is.

    Attributes:
      task: the model and its loss.
      data: one stream a trial, leading axis `[T]`.
      error: `(params, stream) -> scalar` for one trial.
      scale: of the steps.
    """

    task: Task
    data: Synthetic
    error: Callable[[jax.Array, Synthetic], jax.Array]
    scale: float


def spectrum(values: flags.FlagValues) -> list[float]:
    """Eigenvalues: 1, then from `1 - gap` falling to a tenth, evenly."""
    if not 0 < values.gap < 1:
        raise UsageError(f"--gap={values.gap} is outside (0, 1).")
    second = 1 - values.gap
    rest = np.linspace(second, min(0.1, second), values.dimension - 1)
    return [1.0, *(float(x) for x in rest)]


def pca(values: flags.FlagValues) -> StreamProblem:
    """Streaming PCA; the error is the squared sine to the leading direction."""
    eigenvalues = spectrum(values)

    def error(v: jax.Array, stream: Synthetic) -> jax.Array:
        leading = stream.root[:, 0] / jnp.linalg.norm(stream.root[:, 0])
        return angle_error(v, leading)

    keys = jax.random.split(make_key(values.seed), values.num_trials)
    return StreamProblem(
        task=krasulina_task(values.dimension),
        data=jax.vmap(lambda key: synthetic(key, eigenvalues))(keys),
        error=error,
        scale=values.pca_scale,
    )


def logistic(values: flags.FlagValues) -> StreamProblem:
    """Logistic regression on white samples; the error is `||w - w*||^2 / ||w*||^2`."""
    if not values.margin > 0:
        raise UsageError(f"--margin={values.margin} leaves nothing to be learned.")
    keys = jax.random.split(make_key(values.seed), values.num_trials)
    white = [1.0] * values.dimension

    def error(w: jax.Array, stream: Synthetic) -> jax.Array:
        away = w - stream.weights
        return (away @ away) / (stream.weights @ stream.weights)

    return StreamProblem(
        task=logistic_task(values.dimension),
        data=jax.vmap(lambda key: synthetic(key, white, margin=values.margin))(keys),
        error=error,
        scale=values.sgd_scale,
    )


def logistic_task(dimension: int) -> Task:
    """`P(y = 1) = 1 / (1 + exp(-w x))`, from `w = 0`."""

    def losses(w: jax.Array, examples: Examples) -> tuple[jax.Array, jax.Array]:
        logits = examples.x @ w
        return jax.nn.softplus(logits) - logits * examples.y.astype(w.dtype), logits

    def loss(
        w: jax.Array, examples: Examples, mask: jax.Array, key: jax.Array
    ) -> jax.Array:
        del key
        each, _ = losses(w, examples)
        return jnp.where(mask, each, 0).sum() / jnp.maximum(mask.sum(dtype=w.dtype), 1)

    def evaluate(w: jax.Array, examples: Examples, mask: jax.Array) -> Sums:
        each, logits = losses(w, examples)
        right = ((logits > 0) == (examples.y > 0)) & mask
        return {
            "count": mask.sum(dtype=jnp.float32),
            "loss": jnp.where(mask, each, 0).sum(),
            "accuracy": right.sum(dtype=jnp.float32),
        }

    return Task(lambda key: jnp.zeros(dimension), loss, evaluate)


PROBLEMS = {"pca": pca, "sgd": logistic}
