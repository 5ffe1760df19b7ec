"""One measurement: rounds of FedAvg with some bad clients, and the accuracy after them.

Which clients are bad, and their attack, are arguments of the compiled program, so that
there is one program for each aggregator.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags

from experiments.robust.attacks import Attack, flip_labels, over_bad_link
from experiments.robust.flags import NamedAttack, Rule
from fedjax_comp import data
from fedjax_comp.algorithms.fed_avg import fed_avg
from fedjax_comp.base import Cohort, Examples, Execution, PyTree, Task
from fedjax_comp.compress import identity
from fedjax_comp.data import FederatedData, make_batches
from fedjax_comp.experiment.expressions import build
from fedjax_comp.keys import make_key
from fedjax_comp.models import classification
from fedjax_comp.run_directory import Json
from fedjax_comp.server.robust import Aggregator
from fedjax_comp.training import (
    Sampler,
    evaluation_program,
    init_state,
    round_program,
)

EVAL_BATCH_SIZE = 500


def everyone(*, epochs: int, batch_size: int) -> Sampler:
    """Cohorts of the whole population, in the order of ids: a client's rank is its id.

    Args:
      epochs: local passes over a client's data.
      batch_size: `B`.
    """

    def sample(key: jax.Array, round_index: jax.Array, data: FederatedData) -> Cohort:
        del round_index
        clients = make_batches(
            key,
            data.order,
            data.offsets,
            jnp.arange(data.spec.num_clients, dtype=jnp.int32),
            max_client_size=data.spec.max_client_size,
            epochs=epochs,
            batch_size=batch_size,
        )
        return Cohort(data.examples, clients)

    return sample


def training_program(
    task: Task,
    aggregator: Aggregator,
    attacks: Sequence[Attack],
    *,
    client_optimizer: optax.GradientTransformation,
    execution: Execution,
    sample: Sampler,
    num_clients: int,
    num_rounds: int,
) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """Training under an attack, ready to be jitted.

    Args:
      task: what is learnt.
      aggregator: of the server.
      attacks: that there may be.
      client_optimizer: of every client.
      execution: how a cohort is run.
      sample: of each round.
      num_clients: `K`.
      num_rounds: how many.

    Returns:
      `(key, params, data, which, bad_clients) -> (test accuracy, updates dropped)`.
    """
    lies = [attack.lie for attack in attacks]

    def train(
        key: jax.Array,
        params: PyTree,
        data: FederatedData,
        which: jax.Array,
        bad_clients: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        algorithm = fed_avg(
            task,
            client_optimizer=client_optimizer,
            uplink=over_bad_link(identity(), lies, which, bad_clients),
            aggregation=aggregator,
            execution=execution,
        )
        run = round_program(algorithm, sample, max_rounds=num_rounds)
        evaluate = evaluation_program(task, execution, batch_size=EVAL_BATCH_SIZE)
        state = init_state(key, algorithm, params, num_clients)
        state, dispatch = run(state, data, jnp.int32(num_rounds))
        score = evaluate(algorithm.params(state.server), data.test)
        return score.accuracy, dispatch.infos.dropped.sum()

    return train


def make_measure(
    values: flags.FlagValues, attacks: Sequence[NamedAttack]
) -> Callable[[Rule, int, int, int], Json]:
    """Loads the data; raises `ValueError` for a mistake in the flags.

    Args:
      values: the command's flags.
      attacks: those that are measured.

    Returns:
      `(rule, which, bad_clients, trial) -> row`, a measurement.
    """
    client_optimizer = build("client_optimizer", values.client_optimizer)
    execution = build("execution", values.execution)
    model = build("model", values.model)
    partition = build("partition", values.partition)
    dataset = data.load(
        values.dataset, data_dir=values.data_dir, raw_dir=values.raw_dir
    )
    task = classification(
        model(dataset.num_classes),
        input_shape=dataset.train.x.shape[1:],
        scale=dataset.scale,
        ignore_label=dataset.ignore_label,
    )

    @functools.cache
    def population(trial: int, flipped: int) -> FederatedData:
        rng = np.random.default_rng((values.seed, trial))
        rows = rng.permutation(len(dataset.train.y))[: values.num_train]
        groups = dataset.train_groups
        some = dataset._replace(
            train=Examples(dataset.train.x[rows], dataset.train.y[rows]),
            train_groups=None if groups is None else groups[rows],
        )
        made = data.federate(
            some, partition, num_clients=values.num_clients, seed=values.seed + trial
        )
        return flip_labels(made, flipped) if flipped else made

    @functools.cache
    def program(aggregator: Aggregator) -> Callable[..., tuple]:
        return jax.jit(
            training_program(
                task,
                aggregator,
                [one.attack for one in attacks],
                client_optimizer=client_optimizer,
                execution=execution,
                sample=everyone(
                    epochs=values.local_epochs, batch_size=values.batch_size
                ),
                num_clients=values.num_clients,
                num_rounds=values.num_rounds,
            )
        )

    def measure(rule: Rule, which: int, bad_clients: int, trial: int) -> Json:
        name, attack = attacks[which]
        flipped = bad_clients if attack.flips_labels else 0
        key = jax.random.fold_in(make_key(values.seed), trial)
        run_key, model_key = jax.random.split(key)
        accuracy, dropped = program(rule.aggregator)(
            run_key,
            task.init(model_key),
            population(trial, flipped),
            jnp.int32(which),
            jnp.int32(bad_clients),
        )
        return {
            "aggregator": rule.name,
            "attack": name,
            "bad_clients": bad_clients,
            "trial": trial,
            "test_accuracy": float(accuracy),
            "dropped_updates": int(dropped),
        }

    population(0, 0)  # a mistake in the partition ends the command
    return measure
