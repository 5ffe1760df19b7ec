"""From flags to what a federated experiment is made of: data, task, links, schedule."""

from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from fedjax_comp import data
from fedjax_comp.audit.configuration import check_run_id
from fedjax_comp.audit.hooks import logged
from fedjax_comp.audit.keys import load_or_make, load_signer
from fedjax_comp.audit.log import FOLDER, PRIVATE_KEY
from fedjax_comp.audit.note import Signer
from fedjax_comp.base import Compressor, Execution, Sums, Task
from fedjax_comp.client_evaluation import ClientBlocks
from fedjax_comp.compress import identity
from fedjax_comp.experiment.algorithms import num_public
from fedjax_comp.experiment.clients import check_clients, client_blocks
from fedjax_comp.experiment.controllers import check_budgets, uplink_of
from fedjax_comp.experiment.errors import UsageError
from fedjax_comp.experiment.expressions import build
from fedjax_comp.experiment.lateness import counts_late
from fedjax_comp.extras import needs
from fedjax_comp.hooks import Hook
from fedjax_comp.keys import make_key
from fedjax_comp.models import augmented, classification
from fedjax_comp.problem import Schedule
from fedjax_comp.schedules import scheduled_rates
from fedjax_comp.training import Sampler, minibatch_cohorts, uniform_cohorts


class Federation(NamedTuple):
    """What most experiments need, built from the common flags.

    Attributes:
      task: the model and its loss.
      population: the examples and who holds them, on the device.
      sample: draws each round's cohort.
      uplink: compressor of the uplink; `identity()` where it is no flag.
      downlink: compressor of the downlink.
      execution: how cohorts and evaluations are run.
      blocks: what every client is evaluated on at the end; None where the flags do not
        ask for it.
      public: inputs of training examples that no client holds, `[P, ...]`; None where
        the algorithm asks for none.
    """

    task: Task
    population: data.FederatedData
    sample: Sampler
    uplink: Compressor
    downlink: Compressor
    execution: Execution
    blocks: ClientBlocks | None = None
    public: np.ndarray | None = None


def build_federation(values: flags.FlagValues) -> Federation:
    """Builds everything that the common flags describe; raises `ValueError`."""
    if values.cohort_size > values.num_clients:
        raise UsageError(
            f"--cohort_size={values.cohort_size} is larger than the population, "
            f"--num_clients={values.num_clients}."
        )
    build_schedule(values)
    client_store(values)
    check_budgets(values)
    check_clients(values)
    check_steps(values)
    validation_share(values)
    # Cheap mistakes first: expressions are read before any data is.
    uplink = build("uplink", values.uplink) if "uplink" in values else identity()
    uplink = uplink_of(values, uplink)
    downlink = build("downlink", values.downlink)
    execution = build("execution", values.execution)
    model = build("model", values.model)
    partition = build("partition", values.partition)
    asked = None
    if "algorithm" in values:
        asked = num_public(build("algorithm", values.algorithm))
    augmentation = None
    if "augmentation" in values and values.augmentation:
        augmentation = build("augmentation", values.augmentation)
    dataset = load_dataset(values)
    public = None
    if asked is not None:
        dataset, public = data.set_aside(dataset, asked, seed=values.seed)
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
        perplexity=population.examples.y.ndim > 1,
    )
    _check_fits(task, population)
    if augmentation is not None:
        task = augmented(task, augmentation)
    check_sampling(values, population)
    sample = _sampler(values)
    blocks = client_blocks(values, dataset, population)
    return Federation(
        task, population, sample, uplink, downlink, execution, blocks, public
    )


def _sampler(values: flags.FlagValues) -> Sampler:
    steps = values.local_steps if "local_steps" in values else None
    by_size = "client_sampling" in values and values.client_sampling == "by_size"
    if steps is None:
        sample = uniform_cohorts(
            cohort_size=values.cohort_size,
            epochs=values.local_epochs,
            batch_size=values.batch_size,
            by_size=by_size,
        )
    else:
        sample = minibatch_cohorts(
            cohort_size=values.cohort_size,
            steps=steps,
            batch_size=values.batch_size,
            by_size=by_size,
        )
    if "client_schedule" in values and values.client_schedule:
        schedule = build("client_schedule", values.client_schedule)
        return scheduled_rates(sample, schedule)
    return sample


def check_sampling(values: flags.FlagValues, population: data.FederatedData) -> None:
    """Refuses what clients cannot be drawn by, or not beside other flags.

    Raises:
      UsageError: when it does.
    """
    for name in ("client_schedule", "client_sampling"):
        if name not in values or not values[name].value:
            continue
        told = f"--{name}={values[name].value}"
        if "late_updates" in values and counts_late(values):
            raise UsageError(
                f"{told}: late updates come from cohorts of their own; leave "
                "--concurrency and --late_updates out."
            )
    if "client_sampling" not in values or values.client_sampling != "by_size":
        return
    largest, total = population.spec.max_client_size, population.order.shape[0]
    if largest * values.cohort_size > total:
        raise UsageError(
            f"--client_sampling=by_size: the largest client holds {largest} of {total} "
            f"examples, so that --cohort_size may be {total // largest} at most, not "
            f"{values.cohort_size}."
        )


def check_steps(values: flags.FlagValues) -> None:
    """Refuses local steps beside what says how long a client trains in another way.

    Raises:
      UsageError: when it does.
    """
    if "local_steps" not in values or values.local_steps is None:
        return
    told = f"--local_steps={values.local_steps}"
    if values.local_epochs != 1:
        raise UsageError(f"{told} and --local_epochs: give one of the two.")
    if values.batch_size == 0:
        raise UsageError(
            f"{told} needs a --batch_size: 0, all examples of a client, is an epoch."
        )
    if "late_updates" in values and counts_late(values):
        raise UsageError(
            f"{told}: when late updates arrive is told by --local_epochs; leave it out."
        )


def _check_fits(task: Task, population: data.FederatedData) -> None:
    """Traces an evaluation, so that a model that does not go with the data says so."""

    def evaluate(key: jax.Array) -> Sums:
        one = jax.tree.map(lambda x: x[:1], population.test)
        return task.evaluate(task.init(key), one, jnp.ones(1, bool))

    jax.eval_shape(evaluate, make_key(0))


def _is_symbolic(population: data.FederatedData) -> bool:
    stored = population.examples.x.dtype
    return population.spec.scale == 1 and jnp.issubdtype(stored, jnp.integer)


def build_schedule(values: flags.FlagValues) -> Schedule:
    """When the host is needed, from the common flags.

    An experiment without `--audit_every` or without a target has none.

    Raises:
      UsageError: for a target that is no accuracy, or one to stop at that is missing.
    """
    target = values.target_accuracy if "target_accuracy" in values else None
    if target is not None and not 0 < target <= 1:
        raise UsageError(f"--target_accuracy={target} is outside (0, 1].")
    stop = values.stop_at_target if "stop_at_target" in values else False
    if stop and target is None:
        raise UsageError("--stop_at_target needs --target_accuracy to stop at.")
    return Schedule(
        num_rounds=values.num_rounds,
        eval_every=values.eval_every,
        checkpoint_every=values.checkpoint_every,
        audit_every=values.audit_every if "audit_every" in values else 0,
        target_accuracy=target,
        stop_at_target=stop,
    )


def define_validation(values: flags.FlagValues) -> None:
    """Defines the flag by which accuracy is one on examples held out of training."""
    # None and not 0, so that directories from before this flag can be resumed.
    flags.DEFINE_float(
        "validation_share",
        None,
        "Share of every client's training examples that is held out and evaluated on, "
        "in place of the test set, to make choices by.",
        flag_values=values,
    )


def load_dataset(values: flags.FlagValues) -> data.Dataset:
    """The data set, with `--validation_share` of it held out in place of the test set.

    Raises:
      UsageError: for a share outside (0, 1).
    """
    dataset = data.load(
        values.dataset, data_dir=values.data_dir, raw_dir=values.raw_dir
    )
    share = validation_share(values)
    if share is None:
        return dataset
    return data.hold_out(dataset, share, seed=values.seed)


def validation_share(values: flags.FlagValues) -> float | None:
    """What `--validation_share` holds out; None for the test set.

    Raises:
      UsageError: for a share outside (0, 1).
    """
    share: float | None = (
        values.validation_share if "validation_share" in values else None
    )
    if share is not None and not 0 < share < 1:
        raise UsageError(f"--validation_share={share} is outside (0, 1).")
    return share


def client_store(values: flags.FlagValues) -> Literal["device", "disk"]:
    """Where the flags keep clients' states.

    Raises:
      UsageError: for a store on disk together with simulated links or devices.
    """
    on_disk = "client_store" in values and values.client_store == "disk"
    if not on_disk:
        return "device"
    for name in ("network", "devices"):
        if name in values and values[name].value:
            raise UsageError(
                f"--client_store=disk with --{name}: simulated links and devices write "
                "their orders into all clients' states between two rounds, which is "
                "done on the device only; leave one of the two out."
            )
    return "disk"


def keeps_messages(values: flags.FlagValues) -> bool:
    """Whether the flags want messages: for audits, or for the log of all of them."""
    if "audit_every" not in values:
        return False
    return bool(values.audit_every or values.audit_log)


def check_audits(values: flags.FlagValues) -> None:
    """Refuses a key or an id for no log, and ones that cannot be; writes nothing.

    Raises:
      ValueError: when it does.
      MissingExtra: for a log without the extra `crypto`.
    """
    if "audit_log" not in values:
        return
    for name, why in (("audit_key", "to sign"), ("run_id", "to name")):
        if values[name].value is not None and not values.audit_log:
            raise UsageError(f"--{name} needs --audit_log: there is no log {why}.")
    if values.run_id is not None:
        try:
            check_run_id(values.run_id)
        except ValueError as error:
            raise UsageError(f"--run_id: {error}") from error
    if values.audit_key is not None:
        load_signer(Path(values.audit_key))
    if values.audit_log:
        with needs("crypto", "--audit_log"):
            import cryptography  # noqa: F401 (before anything is written)


def log_hooks(name: str, values: flags.FlagValues) -> list[Hook]:
    """The log of all messages, where the flags ask for one; makes its key."""
    signer = audit_key(name, values)
    return [] if signer is None else [logged(signer, values.run_id)]


def audit_key(name: str, values: flags.FlagValues) -> Signer | None:
    """The key that signs the run's log, or None without `--audit_log`.

    Raises:
      ValueError: for a file that holds no such key.
    """
    if "audit_log" not in values or not values.audit_log:
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
