"""From flags to what a federated experiment is made of: data, task, links, schedule."""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from absl import flags

from fedjax_comp import data
from fedjax_comp.audit.keys import load_or_make, load_signer
from fedjax_comp.audit.log import FOLDER, PRIVATE_KEY
from fedjax_comp.audit.note import Signer
from fedjax_comp.base import Compressor, Execution, Task
from fedjax_comp.compress import identity
from fedjax_comp.experiment.expressions import build
from fedjax_comp.experiment.main import UsageError
from fedjax_comp.keys import make_key
from fedjax_comp.models import classification
from fedjax_comp.run import Schedule
from fedjax_comp.training import Sampler, uniform_cohorts


class Federation(NamedTuple):
    """What most experiments need, built from the common flags.

    Attributes:
      task: the model and its loss.
      population: the examples and who holds them, on the device.
      sample: draws each round's cohort.
      uplink: compressor of the uplink; `identity()` where it is no flag.
      downlink: compressor of the downlink.
      execution: how cohorts and evaluations are run.
    """

    task: Task
    population: data.FederatedData
    sample: Sampler
    uplink: Compressor
    downlink: Compressor
    execution: Execution


def build_federation(values: flags.FlagValues) -> Federation:
    """Builds everything that the common flags describe; raises `ValueError`."""
    if values.cohort_size > values.num_clients:
        raise UsageError(
            f"--cohort_size={values.cohort_size} is larger than the population, "
            f"--num_clients={values.num_clients}."
        )
    target = values.target_accuracy
    if target is not None and not 0 < target <= 1:
        raise UsageError(f"--target_accuracy={target} is outside (0, 1].")
    # Cheap mistakes first: expressions are read before any data is.
    uplink = build("uplink", values.uplink) if "uplink" in values else identity()
    downlink = build("downlink", values.downlink)
    execution = build("execution", values.execution)
    model = build("model", values.model)
    partition = build("partition", values.partition)
    dataset = data.load(
        values.dataset, data_dir=values.data_dir, raw_dir=values.raw_dir
    )
    population = data.federate(
        dataset, partition, num_clients=values.num_clients, seed=values.seed
    )
    spec = population.spec
    task = classification(
        model(spec.num_classes),
        input_shape=spec.input_shape,
        scale=spec.scale,
        ignore_label=spec.ignore_label,
        # Stored integers that are not scaled are symbols, not numbers.
        input_dtype=jnp.int32 if _is_symbolic(population) else jnp.float32,
    )
    sample = uniform_cohorts(
        cohort_size=values.cohort_size,
        epochs=values.local_epochs,
        batch_size=values.batch_size,
    )
    return Federation(task, population, sample, uplink, downlink, execution)


def _is_symbolic(population: data.FederatedData) -> bool:
    stored = population.examples.x.dtype
    return population.spec.scale == 1 and jnp.issubdtype(stored, jnp.integer)


def build_schedule(values: flags.FlagValues) -> Schedule:
    """When the host is needed, from the common flags."""
    return Schedule(
        num_rounds=values.num_rounds,
        eval_every=values.eval_every,
        checkpoint_every=values.checkpoint_every,
        audit_every=values.audit_every,
        target_accuracy=values.target_accuracy,
        stop_at_target=values.stop_at_target,
    )


def keeps_messages(values: flags.FlagValues) -> bool:
    """Whether the flags want messages: for audits, or for the log of all of them."""
    return bool(values.audit_every or values.audit_log)


def audit_key(name: str, values: flags.FlagValues) -> Signer | None:
    """The key that signs the run's log, or None without `--audit_log`.

    Raises:
      ValueError: for a file that holds no such key.
    """
    if not values.audit_log:
        return None
    if values.audit_key is not None:
        return load_signer(Path(values.audit_key))
    return load_or_make(
        Path(values.workdir) / FOLDER / PRIVATE_KEY, f"fedjax_comp/{name}"
    )


def initial_key(values: flags.FlagValues) -> tuple[jax.Array, jax.Array]:
    """The keys of the model and of the run, both from `--seed`."""
    model_key, run_key = jax.random.split(make_key(values.seed))
    return model_key, run_key
