"""Builds from one protocol's flags the problem that is run."""

import jax
from absl import flags

from experiments.approximate_synchronous.protocols import Rule, build_rule
from fedjax_comp import data
from fedjax_comp.base import Algorithm, Cohort
from fedjax_comp.data.minibatch import sample_minibatches
from fedjax_comp.experiment.errors import UsageError
from fedjax_comp.experiment.expressions import build
from fedjax_comp.experiment.problem import (
    initial_key,
    keeps_messages,
    load_dataset,
)
from fedjax_comp.models import classification
from fedjax_comp.network.region_clock import timed
from fedjax_comp.network.regions import (
    REGIONS,
    Links,
    lan,
    read_matrix,
    wan,
)
from fedjax_comp.problem import Problem
from fedjax_comp.training import Sampler, evaluation_program


def networks(values: flags.FlagValues) -> dict[str, Links]:
    """The links between the centres, and those of a local network."""
    count = values.num_clients
    for name in ("nearest_ratio", "farthest_ratio"):
        if values.bandwidth and values[name].present:
            raise UsageError(f"--{name} is of the regions, not of --bandwidth=FILE.")
    try:
        if values.bandwidth:
            far = read_matrix(values.bandwidth)
        else:
            far = wan(
                lan_mbps=values.lan_mbps,
                nearest=values.nearest_ratio,
                farthest=values.farthest_ratio,
            )
    except ValueError as error:
        raise UsageError(
            f"--bandwidth, --nearest_ratio, --farthest_ratio: {error}"
        ) from None
    if len(far.bits_per_second) != count and values.bandwidth:
        raise UsageError(
            f"--bandwidth={values.bandwidth} is of {len(far.bits_per_second)} "
            f"centres, --num_clients={count}."
        )
    if len(far.bits_per_second) != count:
        raise UsageError(
            f"--num_clients={count} needs --bandwidth=FILE: only {len(REGIONS)} "
            "regions are known."
        )
    return {"wan": far, "lan": lan(count, mbps=values.lan_mbps)}


def build_problem(values: flags.FlagValues) -> Problem:
    """What one protocol's flags describe, ready to run."""
    rule = build_rule(values.protocol)
    optimizer = build("client_optimizer", values.client_optimizer)
    execution = build("execution", values.execution)
    model = build("model", values.model)
    partition = build("partition", values.partition)
    links = networks(values)
    population = data.federate(
        load_dataset(values),
        partition,
        num_clients=values.num_clients,
        seed=values.seed,
    )
    spec = population.spec
    task = classification(
        model(spec.num_classes), input_shape=spec.input_shape, scale=spec.scale
    )
    made = rule.make(
        task, values.num_clients, optimizer, execution, keeps_messages(values)
    )
    algorithm = timed(
        one_replica(rule, made),
        rule.phases(values.num_clients),
        links,
        num_centres=values.num_clients,
        compute_seconds=rule.steps * values.compute_seconds,
        delay=rule.delay,
    )
    model_key, _ = initial_key(values)
    return Problem(
        algorithm=algorithm,
        sample=batches_of_all(rule.steps, values.num_clients, values.batch_size),
        data=population,
        params=task.init(model_key),
        num_clients=values.num_clients,
        evaluate=evaluation_program(task, execution, batch_size=values.eval_batch_size),
        test=population.test,
        links=dict(rule.links),
    )


def one_replica(rule: Rule, algorithm: Algorithm) -> Algorithm:
    """The model of the first centre: nobody has the mean of all replicas."""
    if not rule.replicas:
        return algorithm
    return algorithm._replace(
        params=lambda state: jax.tree.map(lambda x: x[0], state.replicas)
    )


def batches_of_all(steps: int, num_centres: int, batch_size: int) -> Sampler:
    """Batches of every centre's own examples, drawn with replacement."""

    def sample(key: jax.Array, index: jax.Array, data: data.FederatedData) -> Cohort:
        del index
        drawn = sample_minibatches(
            key, data, cohort_size=num_centres, batch_size=steps * batch_size
        )
        shape = (num_centres, steps, batch_size)
        return drawn._replace(
            clients=drawn.clients._replace(
                rows=drawn.clients.rows.reshape(shape),
                mask=drawn.clients.mask.reshape(shape),
            )
        )

    return sample
