"""One pipeline's problem: the same data, model, batches and optimizer for all."""

import jax
import optax
from absl import flags

from experiments.data_quantization.methods import (
    Data,
    Gradient,
    Indirect,
    Shipped,
    build_method,
)
from fedjax_comp.algorithms.data_quantization import data_quantization
from fedjax_comp.algorithms.fed_avg import fed_avg
from fedjax_comp.algorithms.indirect_gradients import factor_link, indirect_gradients
from fedjax_comp.algorithms.links.data_uplink import data_uplink
from fedjax_comp.algorithms.links.example_link import Cache
from fedjax_comp.algorithms.shipped_data import ship, shipped_first
from fedjax_comp.base import Algorithm, Cohort, Compressor, Examples
from fedjax_comp.compress import identity
from fedjax_comp.data import FederatedData, sample_minibatches
from fedjax_comp.experiment.expressions import build
from fedjax_comp.experiment.main import UsageError
from fedjax_comp.experiment.problem import (
    Federation,
    build_federation,
    initial_key,
    keeps_messages,
)
from fedjax_comp.run import Problem
from fedjax_comp.training import Sampler, evaluation_program


def check(values: flags.FlagValues) -> Federation:
    """Builds what all pipelines share, so that a mistake in it ends the command."""
    if values.local_epochs != 1:
        raise UsageError(
            f"--local_epochs={values.local_epochs}: a round is one step here, leave it "
            "at 1."
        )
    if values.batch_size < 1:
        raise UsageError(f"--batch_size={values.batch_size} must be at least 1 here.")
    build("server_optimizer", values.server_optimizer)
    federation = build_federation(values)
    count, held = values.test_examples, federation.population.spec.num_test
    if values.validation and not 0 < count <= held // 2:
        raise UsageError(
            f"--validation: --test_examples={count} must be from 1 to {held // 2}, "
            "half of the test set: the record is of others than the choice."
        )
    return federation


def build_problem(values: flags.FlagValues) -> Problem:
    """What one pipeline's flags describe, ready to run."""
    federation = check(values)
    optimizer = build("server_optimizer", values.server_optimizer)
    method = build_method(values.method)
    population = federation.population
    keep = keeps_messages(values)
    links: dict[str, Compressor] = {}
    match method:
        case Gradient(uplink, _):
            # One local step of SGD at 1 moves a client by minus its gradient.
            algorithm = fed_avg(
                federation.task,
                client_optimizer=optax.sgd(1.0),
                server_optimizer=optimizer,
                uplink=uplink,
                downlink=federation.downlink,
                execution=federation.execution,
                population=values.num_clients,
                keep_messages=keep,
            )
            links = {"uplink": uplink, "downlink": federation.downlink}
        case Data():
            algorithm, uplink = _data(method, federation, optimizer, keep)
            links = {"uplink": uplink, "downlink": federation.downlink}
        case Indirect(factors, rest, _):
            algorithm = indirect_gradients(
                federation.task,
                factors=factors,
                rest=rest,
                optimizer=optimizer,
                downlink=federation.downlink,
                execution=federation.execution,
                keep_messages=keep,
            )
            uplink = factor_link(factors, rest)
            links = {"uplink": uplink, "downlink": federation.downlink}
        case Shipped(quantizer, _):
            if values.cohort_size != values.num_clients:
                raise UsageError(
                    "shipped(...) takes all clients in every step: --cohort_size="
                    f"{values.cohort_size} is not --num_clients={values.num_clients}."
                )
            _, key = initial_key(values)
            shipment = ship(key, population, quantizer)
            population = shipment.population
            central = data_quantization(
                federation.task,
                quantizer=identity(),
                num_classes=population.spec.num_classes,
                optimizer=optimizer,
                execution=federation.execution,
            )
            algorithm = shipped_first(central, shipment.bits)
    model_key, _ = initial_key(values)
    return Problem(
        algorithm=algorithm,
        sample=_sampler(values.cohort_size, values.batch_size),
        data=population,
        params=federation.task.init(model_key),
        num_clients=population.spec.num_clients,
        evaluate=evaluation_program(
            federation.task, federation.execution, batch_size=values.eval_batch_size
        ),
        test=_evaluated(values, population.test),
        links=links,
        task=federation.task,
    )


def _sampler(cohort_size: int, batch_size: int) -> Sampler:
    def draw(key: jax.Array, round_index: jax.Array, data: FederatedData) -> Cohort:
        del round_index
        return sample_minibatches(
            key, data, cohort_size=cohort_size, batch_size=batch_size
        )

    return draw


def _evaluated(values: flags.FlagValues, test: Examples) -> Examples:
    """The first examples, for the record; with `--validation` as many of the last."""
    count = values.test_examples
    own = slice(-count, None) if values.validation else slice(count or None)
    return jax.tree.map(lambda leaf: leaf[own], test)


def _data(
    method: Data,
    federation: Federation,
    optimizer: optax.GradientTransformation,
    keep_messages: bool,
) -> tuple[Algorithm, Compressor]:
    spec = federation.population.spec
    cache = Cache(method.cache, spec.input_shape) if method.cache else None
    algorithm = data_quantization(
        federation.task,
        quantizer=method.quantizer,
        num_classes=spec.num_classes,
        optimizer=optimizer,
        scale=spec.scale,
        refinement=method.refinement,
        importance=method.importance,
        cache=cache,
        downlink=federation.downlink,
        execution=federation.execution,
        keep_messages=keep_messages,
    )
    uplink = data_uplink(
        method.quantizer,
        num_classes=spec.num_classes,
        refinement=method.refinement,
        weighted=method.importance is not None,
        cache=cache,
    )
    return algorithm, uplink
