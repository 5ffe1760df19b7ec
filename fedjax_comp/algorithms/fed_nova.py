"""FedNova: updates are divided by the steps that made them, and scaled back together.

Clients with many examples take many steps and so count twice: by their weight and by
their steps. Divided by its number of steps an update is a direction; the server follows
the mean direction by the mean number of steps.

Source: Wang, Liu, Liang, Joshi and Poor 2020, "Tackling the objective inconsistency
problem in heterogeneous federated optimization" (arXiv 2007.07481), equation 6 with
local SGD (a_i a vector of ones).
"""

import jax
import jax.numpy as jnp
import optax

from fedjax_comp.algorithms.client_update import Summand
from fedjax_comp.algorithms.synchronous import Step, synchronous
from fedjax_comp.base import (
    Algorithm,
    ClientBatches,
    Compressor,
    Execution,
    PyTree,
    Task,
)
from fedjax_comp.client.sgd import local_sgd
from fedjax_comp.server.aggregate import WeightedSum, weighted, weighted_mean


def fed_nova(
    task: Task,
    *,
    client_optimizer: optax.GradientTransformation,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
    execution: Execution | None = None,
    keep_messages: bool = False,
) -> Algorithm:
    """Normalised averaging.

    With p_i = n_i / sum_j n_j over the cohort and tau_i the steps of client i,

        w <- w + (sum_i p_i tau_i) sum_i p_i C(w_i - w') / tau_i.

    Args:
      task: the model and its loss.
      client_optimizer: the local optimizer, started afresh each round; the steps are a
        fair measure of what it does for plain SGD.
      uplink: compressor of the clients' updates; `identity()` when None.
      downlink: compressor of the server's model; `identity()` when None.
      execution: how a cohort is run; `scanned()` when None.
      keep_messages: return every message in `RoundInfo.messages`, for an audit.

    Returns:
      An `Algorithm` of `synchronous.Server` and, per client, the uplink's `LinkState`.

    Raises:
      ValueError: from `init` for a downlink whose receiver has memory, and for a model
        with running statistics, which are not to be divided by steps.

    >>> from fedjax_comp.keys import make_key
    >>> from fedjax_comp.models import classification, linear
    >>> task = classification(linear()(num_classes=10), input_shape=(8, 8, 1))
    >>> algorithm = fed_nova(task, client_optimizer=optax.sgd(0.1))
    >>> server, _ = algorithm.init(make_key(0), task.init(make_key(1)))
    >>> sum(x.size for x in jax.tree.leaves(algorithm.params(server)))
    650
    """

    def steps_of(batches: ClientBatches) -> jax.Array:
        return jnp.sum(batches.mask.any(axis=1), dtype=jnp.float32)

    def per_step(batches: ClientBatches) -> jax.Array:
        return 1 / jnp.maximum(steps_of(batches), 1)

    def weighted_steps(summand: Summand, batches: ClientBatches) -> WeightedSum:
        weight = summand.update.weight
        return weighted(steps_of(batches), weight, weight > 0)

    def step(params: PyTree, memory: PyTree, mean: PyTree, tau: WeightedSum) -> Step:
        del memory
        steps = weighted_mean(tau)
        return Step(
            jax.tree.map(lambda w, d: w + (steps * d).astype(w.dtype), params, mean)
        )

    return synchronous(
        local_sgd(task, client_optimizer),
        step,
        scale=per_step,
        beside=weighted_steps,
        uplink=uplink,
        downlink=downlink,
        execution=execution,
        keep_messages=keep_messages,
    )
