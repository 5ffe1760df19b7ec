"""FedExP: the more the clients' updates disagree, the longer the server's step.

Updates that point in different directions have a short mean, though every client moved
far. Projection onto convex sets has the same problem and the same cure: extrapolation.
The step size is the mean squared norm of the updates over twice the squared norm of
their mean, and at least 1, that of FedAvg.

Source: Jhunjhunwala, Wang and Joshi 2023, "FedExP: speeding up federated averaging via
extrapolation" (arXiv 2301.09604), the step size of algorithm 1. Weights by examples
(the paper's are equal) and compressed messages are ours. The paper also averages the
last two models before they are evaluated; that is not done here.
"""

import jax
import jax.numpy as jnp
import optax

from fedjax_comp import checks
from fedjax_comp.algorithms.client_update import Summand
from fedjax_comp.algorithms.synchronous import Step, synchronous
from fedjax_comp.base import (
    Algorithm,
    ClientBatches,
    Compressor,
    Execution,
    Observed,
    PyTree,
    Task,
)
from fedjax_comp.client.sgd import local_sgd
from fedjax_comp.server.aggregate import WeightedSum, weighted, weighted_mean


def fed_exp(
    task: Task,
    *,
    client_optimizer: optax.GradientTransformation,
    epsilon: float = 0.001,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
    execution: Execution | None = None,
    keep_messages: bool = False,
) -> Algorithm:
    """Federated averaging with an extrapolated step.

    With d_i = C(w_i - w'), p_i = n_i / sum_j n_j over the cohort and d = sum_i p_i d_i,

        w <- w + max(1, sum_i p_i ||d_i||^2 / (2 (||d||^2 + epsilon))) d.

    Norms are of decoded updates: the noise of an unbiased compressor adds more to the
    norms of the `d_i` than to that of their mean, and so lengthens the step. Where a
    square is beyond float32 the step is 1.

    Args:
      task: the model and its loss.
      client_optimizer: the local optimizer, started afresh each round.
      epsilon: bounds the step where updates cancel, in squared units of the
        parameters, at least 0.
      uplink: compressor of the clients' updates; `identity()` when None.
      downlink: compressor of the server's model; `identity()` when None.
      execution: how a cohort is run; `scanned()` when None.
      keep_messages: return every message in `RoundInfo.messages`, for an audit.

    Returns:
      An `Algorithm` of `synchronous.Server` and, per client, the uplink's `LinkState`;
      `RoundInfo.observed["server_step"]` is the step.

    Raises:
      ValueError: for a negative `epsilon`; from `init` for a downlink whose receiver
        has memory, and for a model with running statistics, which are no directions.

    >>> from fedjax_comp.keys import make_key
    >>> from fedjax_comp.models import classification, linear
    >>> task = classification(linear()(num_classes=10), input_shape=(8, 8, 1))
    >>> algorithm = fed_exp(task, client_optimizer=optax.sgd(0.1))
    >>> server, _ = algorithm.init(make_key(0), task.init(make_key(1)))
    >>> sum(x.size for x in jax.tree.leaves(algorithm.params(server)))
    650
    """
    checks.not_negative("epsilon", epsilon)

    def squared_length(summand: Summand, batches: ClientBatches) -> WeightedSum:
        del batches
        weight = summand.update.weight
        length = optax.tree.norm(weighted_mean(summand.update), squared=True)
        return weighted(length, weight, weight > 0)

    def step(params: PyTree, memory: PyTree, mean: PyTree, of: WeightedSum) -> Step:
        del memory
        over = 2 * (optax.tree.norm(mean, squared=True) + epsilon)
        ratio = weighted_mean(of) / jnp.where(over > 0, over, 1)
        factor = jnp.where(jnp.isfinite(ratio), jnp.maximum(ratio, 1), 1)
        moved = jax.tree.map(
            lambda w, d: w + (factor * d).astype(w.dtype), params, mean
        )
        return Step(moved, observed={"server_step": Observed(factor, "mean")})

    def memory(params: PyTree) -> PyTree:
        checks.gradients_alone("fed_exp()", params)
        return ()

    return synchronous(
        local_sgd(task, client_optimizer),
        step,
        beside=squared_length,
        memory=memory,
        uplink=uplink,
        downlink=downlink,
        execution=execution,
        keep_messages=keep_messages,
    )
