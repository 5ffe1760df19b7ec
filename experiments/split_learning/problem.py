"""Builds from one method's flags the problem that is run."""

from typing import NamedTuple

import jax
import optax
from absl import flags
from flax import linen as nn

from experiments.split_learning.methods import Method, build_method
from fedjax_comp import data
from fedjax_comp.algorithms.fed_avg import fed_avg
from fedjax_comp.algorithms.links.no_peek import no_peek
from fedjax_comp.algorithms.split_learning import Schedule, split_learning, split_links
from fedjax_comp.base import Algorithm, Cohort, Compressor, Task
from fedjax_comp.data.minibatch import sample_minibatches
from fedjax_comp.experiment.expressions import build
from fedjax_comp.experiment.main import UsageError
from fedjax_comp.experiment.problem import initial_key, keeps_messages
from fedjax_comp.models import classification
from fedjax_comp.models.split import SplitTask, split_classification
from fedjax_comp.run import Problem
from fedjax_comp.training import Sampler, evaluation_program, uniform_cohorts


class Setting(NamedTuple):
    """What all methods share.

    Attributes:
      dataset: the examples.
      module: the whole model.
      task: it and its loss.
    """

    dataset: data.Dataset
    module: nn.Module
    task: Task


def build_setting(values: flags.FlagValues) -> Setting:
    """Data and model; raises `ValueError`."""
    model = build("model", values.model)
    dataset = data.load(
        values.dataset, data_dir=values.data_dir, raw_dir=values.raw_dir
    )
    if dataset.train.y.ndim > 1:
        raise UsageError(f"--dataset={values.dataset} has sequences, not examples.")
    if values.num_train:
        first = jax.tree.map(lambda leaf: leaf[: values.num_train], dataset.train)
        dataset = dataset._replace(train=first, train_groups=None)
    module = model(dataset.num_classes)
    task = classification(
        module, input_shape=dataset.train.x.shape[1:], scale=dataset.scale
    )
    return Setting(dataset, module, task)


def build_split(setting: Setting, cuts: tuple[str, ...]) -> SplitTask:
    """The model in parts; raises `ValueError` for a cut that does not exist."""
    return split_classification(
        setting.module,
        cuts,
        num_classes=setting.dataset.num_classes,
        input_shape=setting.dataset.train.x.shape[1:],
        scale=setting.dataset.scale,
    )


def build_problem(values: flags.FlagValues) -> Problem:
    """What one method's flags describe, ready to run."""
    method = build_method(values.method)
    setting = build_setting(values)
    partition = build("partition", values.partition)
    population = data.federate(
        setting.dataset,
        partition,
        num_clients=values.num_clients,
        seed=values.seed,
    )
    algorithm, links = build_algorithm(values, method, setting)
    execution = build("execution", values.execution)
    model_key, _ = initial_key(values)
    return Problem(
        algorithm=algorithm,
        sample=build_sample(values, method, population.spec.num_train),
        data=population,
        params=setting.task.init(model_key),
        num_clients=values.num_clients,
        evaluate=evaluation_program(
            setting.task, execution, batch_size=values.eval_batch_size
        ),
        test=population.test,
        links=links,
    )


def build_algorithm(
    values: flags.FlagValues, method: Method, setting: Setting
) -> tuple[Algorithm, dict[str, Compressor]]:
    """The algorithm and the compressors of its messages."""
    optimizer = build("client_optimizer", values.client_optimizer)
    uplink = build("uplink", values.uplink)
    downlink = build("downlink", values.downlink)
    execution = build("execution", values.execution)
    keep = keeps_messages(values)
    if method.kind == "round_robin" or method.kind == "parallel":
        task = build_split(setting, method.cuts)
        schedule: Schedule = method.kind
        algorithm = split_learning(
            task,
            client_optimizer=optimizer,
            uplink=uplink,
            downlink=downlink,
            schedule=schedule,
            penalty=no_peek(method.no_peek) if method.no_peek else None,
            execution=execution,
            keep_messages=keep,
        )
        return algorithm, split_links(task, uplink, downlink)
    if method.kind == "large_batch":
        optimizer = optax.sgd(method.rate)
    algorithm = fed_avg(
        setting.task,
        client_optimizer=optimizer,
        uplink=uplink,
        downlink=downlink,
        execution=execution,
        keep_messages=keep,
    )
    return algorithm, {"uplink": uplink, "downlink": downlink}


def build_sample(values: flags.FlagValues, method: Method, num_train: int) -> Sampler:
    """All clients in every round: an epoch each, or one batch each."""
    count = values.num_clients
    if method.kind != "large_batch":
        return uniform_cohorts(
            cohort_size=count, epochs=1, batch_size=values.batch_size
        )
    share = share_of_batch(num_train, count, method.steps)

    def sample(key: jax.Array, index: jax.Array, data: data.FederatedData) -> Cohort:
        del index
        return sample_minibatches(key, data, cohort_size=count, batch_size=share)

    return sample


def share_of_batch(num_train: int, num_clients: int, steps: int) -> int:
    """A client's part of a batch of which there are so many in an epoch."""
    return max(1, round(num_train / (num_clients * steps)))
