"""The vectors to compress: random ones, and updates recorded from real training.

gaussian: independent N(0, 1), what a random rotation makes of any vector.
lognormal: LogNormal(0, 1) with random signs, heavy-tailed as updates are; the field's
  protocol is n = 2**19, 10 clients, 10 trials (Vargaftik et al., "EDEN", 2022).
the others (`RECORDED`): the updates that the clients of one cohort send in one round of
  federated averaging (McMahan et al. 2017), after the rounds before it; or the changes
  of the server's model in each of several rounds. These stay trees, so that compressors
  of matrices find matrices.

`--num_clients` is the number of vectors of each source. For sources that name their own
round, three or four vectors take one to two minutes on two cores: slow ones divide
their data among more clients, so that each trains on 100 to 300 examples.
"""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax.traverse_util import flatten_dict, unflatten_dict

from fedjax_comp.algorithms.fed_avg import fed_avg
from fedjax_comp.base import PyTree
from fedjax_comp.data import DataUnavailable, load
from fedjax_comp.experiment.expressions import build
from fedjax_comp.experiment.flags import common_flags
from fedjax_comp.experiment.problem import build_federation, initial_key
from fedjax_comp.keys import make_key
from fedjax_comp.training import init_state, round_program

Draw = Callable[[jax.Array, int], jax.Array]
"""`(key, n) -> float32 [n]`."""


class Source(NamedTuple):
    """Vectors of one kind.

    Attributes:
      name: as in the tables.
      vectors: one tree a client.
    """

    name: str
    vectors: list[PyTree]


def gaussian(key: jax.Array, n: int) -> jax.Array:
    """Independent standard normal coordinates, float32 `[n]`."""
    return jax.random.normal(key, (n,), jnp.float32)


def lognormal(key: jax.Array, n: int) -> jax.Array:
    """`s exp(z)` with standard normal `z` and fair signs `s`, float32 `[n]`."""
    sign_key, size_key = jax.random.split(key)
    signs = jax.random.rademacher(sign_key, (n,), jnp.float32)
    return signs * jnp.exp(gaussian(size_key, n))


DRAWN: dict[str, Draw] = {"gaussian": gaussian, "lognormal": lognormal}


class Recording(NamedTuple):
    """How updates come about.

    Attributes:
      flags: of the training; the others have their defaults, but for the cohort's size.
      rounds: the round whose updates are recorded; None for `--update_rounds`.
      link: "uplink" for what each of a cohort's `--num_clients` clients sends in that
        round; "downlink" for the server's change in that round and in each of the
        `--num_clients` - 1 after it, with a cohort as `flags` say.
    """

    flags: dict[str, object]
    rounds: int | None = None
    link: Literal["uplink", "downlink"] = "uplink"


RECORDED: dict[str, Recording] = {
    "mnist_cnn": Recording(
        {"dataset": "mnist", "model": "cnn()", "client_optimizer": "sgd(0.1)"}
    ),
    "shakespeare_lstm": Recording(
        {
            "dataset": "shakespeare",
            "model": "char_lstm()",
            "partition": "natural()",
            "client_optimizer": "sgd(1.0)",
        }
    ),
    "digits_mlp": Recording(
        {"dataset": "digits", "model": "mlp(200, 200)", "client_optimizer": "sgd(0.1)"}
    ),
    "cifar_resnet": Recording(
        {
            "dataset": "cifar10",
            "model": "resnet(20)",
            "num_clients": 200,
            "client_optimizer": "sgd(0.1)",
        },
        rounds=10,
    ),
    "shakespeare_transformer": Recording(
        {
            "dataset": "shakespeare",
            "model": "char_transformer()",
            "partition": "natural()",
            "local_epochs": 5,
            "client_optimizer": "sgd(0.3)",
        },
        rounds=20,
    ),
    "fashion_cnn_dirichlet": Recording(
        {
            "dataset": "fashion_mnist",
            "model": "cnn()",
            "partition": "dirichlet(0.3, minimum=50)",
            "num_clients": 200,
            "client_optimizer": "sgd(0.05)",
        },
        rounds=10,
    ),
    "mnist_2nn_late": Recording(
        {"dataset": "mnist", "model": "mlp(200, 200)", "client_optimizer": "sgd(0.1)"},
        rounds=60,
    ),
    "mnist_cnn_downlink": Recording(
        {
            "dataset": "mnist",
            "model": "cnn()",
            "num_clients": 500,
            "cohort_size": 10,
            "client_optimizer": "sgd(0.1)",
        },
        rounds=10,
        link="downlink",
    ),
}
"""Everything that is recorded from training, by name."""

NAMES = (*DRAWN, *RECORDED)
STAND_IN = "digits_mlp"
"""Needs no data beyond the package, so it stands in for what cannot be had."""


def source_names(values: flags.FlagValues, folder: Path) -> list[str]:
    """The sources that `--source` names and that can be had; nothing is trained.

    Args:
      values: the experiment's flags.
      folder: where recorded updates are kept.

    Returns:
      Names, each once. Where the data of a default one cannot be had, `digits_mlp`
      stands in, which is said on the terminal.

    Raises:
      DataUnavailable: when the data of a source that was asked for by hand cannot be
        had.
    """
    names = []
    for name in values.source:
        if name in RECORDED and not kept_path(name, folder).exists():
            dataset = str(RECORDED[name].flags["dataset"])
            try:
                load(dataset, data_dir=values.data_dir, raw_dir=values.raw_dir)
            except DataUnavailable:
                if values["source"].present:
                    raise
                print(f"{name}: its data is not here; {STAND_IN} stands in for it.")
                name = STAND_IN
        names.append(name)
    return list(dict.fromkeys(names))


def make_source(name: str, values: flags.FlagValues, folder: Path) -> Source:
    """A source by its name, each vector of it another client's.

    Args:
      name: one of `NAMES`.
      values: the experiment's flags.
      folder: where recorded updates are kept, so that a resumed run has the same.
    """
    if name in DRAWN:
        return drawn(name, values)
    return recorded(name, values, folder)


def drawn(name: str, values: flags.FlagValues) -> Source:
    """Vectors of a distribution, from `--seed`."""
    key = jax.random.fold_in(make_key(values.seed), NAMES.index(name))
    keys = jax.random.split(key, values.num_clients)
    return Source(name, [DRAWN[name](k, values.dimension) for k in keys])


def recorded(name: str, values: flags.FlagValues, folder: Path) -> Source:
    """The updates of `RECORDED[name]`, read again when they are there."""
    path = kept_path(name, folder)
    if path.exists():
        with np.load(path) as kept:
            stacked = unflatten_dict({key: kept[key] for key in kept.files}, sep="/")
    else:
        stacked = train(name, values)
        folder.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}")
        np.savez(beside, **flatten_dict(jax.tree.map(np.asarray, stacked), sep="/"))
        # NumPy ends the name by `.npz`, which it already has.
        beside.replace(path)
    vectors = [
        jax.tree.map(lambda x, i=i: jnp.asarray(x[i]), stacked)
        for i in range(values.num_clients)
    ]
    return Source(name, vectors)


def kept_path(name: str, folder: Path) -> Path:
    """Where the updates of a source are kept."""
    return folder / f"{name}.npz"


def train(name: str, values: flags.FlagValues) -> PyTree:
    """Federated averaging without compression; the updates recorded, `[C, ...]`."""
    recording = RECORDED[name]
    rounds = recording.rounds or values.update_rounds
    own = common_flags(
        **{"cohort_size": values.num_clients, **recording.flags},
        seed=values.seed,
        data_dir=values.data_dir,
        raw_dir=values.raw_dir,
    )
    own([""])
    federation = build_federation(own)
    algorithm = fed_avg(
        federation.task,
        client_optimizer=build("client_optimizer", own.client_optimizer),
        keep_messages=recording.link == "uplink",
    )
    model_key, run_key = initial_key(own)
    params = federation.task.init(model_key)
    state = init_state(run_key, algorithm, params, own.num_clients)
    run = jax.jit(round_program(algorithm, federation.sample, max_rounds=rounds))
    if recording.link == "uplink":
        _, dispatch = run(state, federation.population, jnp.int32(rounds))
        return dispatch.messages["uplink"].payload
    state, _ = run(state, federation.population, jnp.int32(rounds - 1))
    models = [algorithm.params(state.server)]
    for _ in range(values.num_clients):
        state, _ = run(state, federation.population, jnp.int32(1))
        models.append(algorithm.params(state.server))
    changes = [
        jax.tree.map(jnp.subtract, new, old) for old, new in itertools.pairwise(models)
    ]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *changes)
