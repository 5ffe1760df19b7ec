"""Vectors to be compressed: drawn ones, and updates recorded from real training.

gaussian: independent N(0, 1), what a random rotation makes of any vector.
lognormal: LogNormal(0, 1) with random signs, heavy-tailed as updates are; the field's
  protocol is n = 2**19, 10 clients, 10 trials (Vargaftik et al., "EDEN", 2022).
mnist_cnn, shakespeare_lstm, digits_mlp: what each client of one cohort sends in one
  round of federated averaging (McMahan et al. 2017), after the rounds before it. These
  stay trees, so that compressors of matrices find matrices.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

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

TRAINED: dict[str, dict[str, object]] = {
    "mnist_cnn": {
        "dataset": "mnist",
        "model": "cnn()",
        "client_optimizer": "sgd(0.1)",
    },
    "shakespeare_lstm": {
        "dataset": "shakespeare",
        "model": "char_lstm()",
        "partition": "natural()",
        "client_optimizer": "sgd(1.0)",
    },
    "digits_mlp": {
        "dataset": "digits",
        "model": "mlp(200, 200)",
        "client_optimizer": "sgd(0.1)",
    },
}
"""Flags of the training that each is recorded from; the others have their defaults."""

NAMES = (*DRAWN, *TRAINED)
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
        if name in TRAINED and not kept_path(name, folder).exists():
            dataset = str(TRAINED[name]["dataset"])
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
    """What a cohort sends in round `--update_rounds`, read again when it is there."""
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
    """Federated averaging without compression; the last round's updates `[C, ...]`."""
    own = common_flags(
        **TRAINED[name],
        cohort_size=values.num_clients,
        num_rounds=values.update_rounds,
        seed=values.seed,
        data_dir=values.data_dir,
        raw_dir=values.raw_dir,
    )
    own([""])
    federation = build_federation(own)
    algorithm = fed_avg(
        federation.task,
        client_optimizer=build("client_optimizer", own.client_optimizer),
        keep_messages=True,
    )
    model_key, run_key = initial_key(own)
    params = federation.task.init(model_key)
    state = init_state(run_key, algorithm, params, own.num_clients)
    program = round_program(
        algorithm, federation.sample, max_rounds=values.update_rounds
    )
    rounds = jnp.int32(values.update_rounds)
    _, dispatch = jax.jit(program)(state, federation.population, rounds)
    return dispatch.messages["uplink"].payload
