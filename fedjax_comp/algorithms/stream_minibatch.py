"""Learning from streams that are faster than the processors or the links.

`R_s` samples arrive a second at `N` nodes that process `R_p` samples a second each and
exchange `R_c` messages a second. A minibatch of `B` samples with `R` rounds of messages
takes tau = B / (N R_p) + R / R_c; of the R_s tau samples that arrive meanwhile the next
minibatch takes B, and

    mu = max(0, R_s tau - B)

are discarded. Errors should be plotted against samples *arrived*, B + mu a minibatch.

Source: Nokleby, Raja, Bajwa 2020, "Scaling-up distributed processing of data streams
for machine learning" (arXiv 2005.08854), sections II and IV; DM-Krasulina after Raja,
Bajwa 2022, "Distributed stochastic algorithms for high-rate streaming principal
component analysis" (arXiv 2001.01017), and Krasulina 1969. Both are reconstructed from
their descriptions.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_comp.algorithms.fed_avg import fed_avg
from fedjax_comp.base import Algorithm, Compressor, Examples, Execution, Sums, Task


class Rates(NamedTuple):
    """How fast things are, a second.

    Attributes:
      arriving: `R_s`, samples of the whole stream.
      processing: `R_p`, samples of one node.
      messages: `R_c`, rounds of messages.
    """

    arriving: float
    processing: float
    messages: float


class Pace(NamedTuple):
    """What becomes of the stream, for each minibatch.

    Attributes:
      seconds: from one minibatch to the next; it waits for samples where it must.
      discarded: `mu`, samples that are lost.
      arrived: `B + mu`.
    """

    seconds: float
    discarded: float
    arrived: float


def pace(rates: Rates, *, batch_size: int, num_nodes: int, rounds: float) -> Pace:
    """The pace of distributed minibatch learning.

    Args:
      rates: of the stream, the nodes and the links.
      batch_size: `B`, of the whole network.
      num_nodes: `N`.
      rounds: `R`, rounds of messages for a minibatch; 0 where nothing is exchanged.

    Returns:
      The pace.

    Raises:
      ValueError: for a rate that is not positive, `B` that is no positive multiple of
        `N`, or negative rounds.

    >>> pace(Rates(1000.0, 100.0, 8.0), batch_size=100, num_nodes=16, rounds=2)
    Traceback (most recent call last):
    ...
    ValueError: Expected batch_size=100 to be a positive multiple of the 16 nodes.
    >>> pace(Rates(1000.0, 125.0, 8.0), batch_size=128, num_nodes=16, rounds=2)
    Pace(seconds=0.314, discarded=186.0, arrived=314.0)

    Source: Nokleby, Raja, Bajwa 2020, section II.
    """
    for name, rate in rates._asdict().items():
        if not (math.isfinite(rate) and rate > 0):
            raise ValueError(f"Expected a rate {name}={rate} > 0 and finite.")
    if num_nodes < 1 or batch_size < 1 or batch_size % num_nodes:
        raise ValueError(
            f"Expected batch_size={batch_size} to be a positive multiple of the "
            f"{num_nodes} nodes."
        )
    if not rounds >= 0:
        raise ValueError(f"Expected rounds={rounds} >= 0.")
    busy = batch_size / (num_nodes * rates.processing) + rounds / rates.messages
    discarded = max(0.0, rates.arriving * busy - batch_size)
    return Pace(
        seconds=max(busy, batch_size / rates.arriving),
        discarded=discarded,
        arrived=batch_size + discarded,
    )


def minibatch_sgd(
    task: Task,
    *,
    optimizer: optax.GradientTransformation,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
    execution: Execution | None = None,
    keep_messages: bool = False,
) -> Algorithm:
    """Distributed minibatch SGD with exact averaging: a step along the mean gradient.

    It is `fed_avg` with one local step of length one: what a node sends is minus the
    gradient of its part of the minibatch.

    Args:
      task: the model and its loss.
      optimizer: of the common model.
      uplink: compressor of the gradients; `identity()` when None.
      downlink: compressor of the model; `identity()` when None.
      execution: how the nodes are run; `scanned()` when None.
      keep_messages: return every message in `RoundInfo.messages`.

    Returns:
      An `Algorithm`, for cohorts of one local step (`fedjax_comp.data.arrivals`).
    """
    return fed_avg(
        task,
        client_optimizer=optax.sgd(1.0),
        server_optimizer=optimizer,
        uplink=uplink,
        downlink=downlink,
        execution=execution,
        keep_messages=keep_messages,
    )


def krasulina_task(dimension: int) -> Task:
    """Streaming PCA as a task whose negative gradient is Krasulina's direction.

    With `C` the mean of `x x^T` over a batch and `v` the estimate, the gradient of the
    loss is `-(C v - (v^T C v / v^T v) v)`: minus the gradient of Rayleigh's quotient
    times `||v||^2 / 2`. DM-Krasulina is `minibatch_sgd` on this task.

    Args:
      dimension: `d`.

    Returns:
      A `Task` with params `v`, float32 `[d]`, uniform on the unit sphere at first. Its
      loss is the mean squared error of `x` projected on `v`, with the gradient above;
      `evaluate` sums that error and, as what is correct, the part of `||x||^2` that `v`
      captures.

    Raises:
      ValueError: for `dimension < 2`.

    >>> task = krasulina_task(2)
    >>> x = Examples(jnp.array([[2.0, 0.0]]), jnp.zeros(1, jnp.int32))
    >>> gradient = jax.grad(task.loss)(
    ...     jnp.array([1.0, 1.0]), x, jnp.ones(1, bool), jax.random.key(0))
    >>> (-gradient).tolist()
    [2.0, -2.0]

    Source: Nokleby, Raja, Bajwa 2020, section IV; Krasulina 1969.
    """
    if dimension < 2:
        raise ValueError(f"Expected dimension={dimension} >= 2.")

    def init(key: jax.Array) -> jax.Array:
        drawn = jax.random.normal(key, (dimension,))
        return drawn / jnp.linalg.norm(drawn)

    def energies(
        v: jax.Array, examples: Examples, mask: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """`||x||^2` and `(x^T v)^2`, zero where masked, `[B]`."""
        x = jnp.where(mask[:, None], examples.x, 0)
        return jnp.sum(x * x, axis=1), (x @ v) ** 2

    def loss(
        v: jax.Array, examples: Examples, mask: jax.Array, key: jax.Array
    ) -> jax.Array:
        del key
        whole, along = energies(v, examples, mask)
        count = jnp.maximum(mask.sum(dtype=jnp.float32), 1).astype(v.dtype)
        quotient = jax.lax.stop_gradient(along.sum() / count / (v @ v))
        # Krasulina's direction is not a gradient; this has it as one, and the error as
        # its value, which gradients do not see.
        direction = -(along.sum() / count - quotient * (v @ v)) / 2
        value = whole.sum() / count - quotient
        return jax.lax.stop_gradient(value - direction) + direction

    def evaluate(v: jax.Array, examples: Examples, mask: jax.Array) -> Sums:
        whole, along = energies(v, examples, mask)
        along = along / (v @ v)
        captured = jnp.where(whole > 0, along / jnp.where(whole > 0, whole, 1), 0)
        return {
            "count": mask.sum(dtype=jnp.float32),
            "loss": jnp.sum(whole - along),
            "accuracy": captured.sum(),
        }

    return Task(init, loss, evaluate)


def decaying_step(scale: float, offset: float) -> optax.Schedule:
    """`gamma_t = scale / (offset + t)`, the steps with which errors fall as `1 / t`.

    Args:
      scale: `c`, above `1 / (lambda_1 - lambda_2)` for Krasulina's method.
      offset: `L`.

    Returns:
      An optax schedule.

    Raises:
      ValueError: for a number that is not positive.

    >>> float(decaying_step(8.0, 64.0)(64))
    0.0625
    """
    for name, value in (("scale", scale), ("offset", offset)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"Expected {name}={value} > 0 and finite.")
    return lambda count: scale / (offset + jnp.asarray(count).astype(jnp.float32))


def angle_error(v: jax.Array, leading: jax.Array) -> jax.Array:
    """`1 - (v^T q)^2 / ||v||^2`, the squared sine between `v` and a unit vector `q`.

    >>> angle_error(jnp.array([2.0, 2.0]), jnp.array([1.0, 0.0])).round(3).item()
    0.5
    """
    # By the largest entry first: the square of one that has grown may overflow.
    scaled = v / jnp.max(jnp.abs(v))
    unit = scaled / jnp.linalg.norm(scaled)
    rest = unit - (unit @ leading) * leading
    return rest @ rest
