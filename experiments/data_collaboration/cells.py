"""The cells of the measurement: how many users, how many examples, and which ones."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from fedjax_comp import data
from fedjax_comp.base import Examples
from fedjax_comp.experiment.main import UsageError


class Cell(NamedTuple):
    """A point of the sweeps: `num_clients` users of `examples` each."""

    num_clients: int
    examples: int


class Material(NamedTuple):
    """The data set, flat and scaled.

    Attributes:
      train: NumPy, `x` float32 `[N, d]`.
      test: on the device, `x` float32 `[M, d]`.
      num_classes: labels are in `[0, num_classes)`.
      stored: shape and dtype of one input as it is stored, to tell what raw data cost.
    """

    train: Examples
    test: Examples
    num_classes: int
    stored: jax.ShapeDtypeStruct


def sweeps(values: flags.FlagValues) -> dict[str, list[Cell]]:
    """The two sweeps, by the name of what is varied."""
    return {
        "num_clients": [
            Cell(k, values.base_examples) for k in sorted(set(values.num_clients))
        ],
        "examples": [
            Cell(values.base_clients, n) for n in sorted(set(values.num_examples))
        ],
    }


def load_material(values: flags.FlagValues) -> Material:
    """Loads `--dataset`; `ValueError` when it has too few examples."""
    dataset = data.load(
        values.dataset, data_dir=values.data_dir, raw_dir=values.raw_dir
    )
    if dataset.train.y.ndim > 1:
        raise UsageError(f"--dataset={values.dataset} has sequences, not examples.")
    needed = values.num_public + max(
        cell.num_clients * cell.examples
        for cells in sweeps(values).values()
        for cell in cells
    )
    if needed > len(dataset.train.y):
        raise UsageError(
            f"--dataset={values.dataset} has {len(dataset.train.y)} training examples; "
            f"{needed} are needed for the largest of the runs and --num_public."
        )
    stored = dataset.train.x[0]

    def flat(x: np.ndarray) -> np.ndarray:
        return (x.reshape(len(x), -1) * dataset.scale).astype(np.float32)

    test = slice(values.num_test)
    return Material(
        train=Examples(flat(dataset.train.x), dataset.train.y),
        test=Examples(
            jnp.asarray(flat(dataset.test.x[test])), jnp.asarray(dataset.test.y[test])
        ),
        num_classes=dataset.num_classes,
        stored=jax.ShapeDtypeStruct(stored.shape, stored.dtype),
    )


def draw(
    material: Material, cell: Cell, *, seed: int, trial: int, num_public: int
) -> tuple[list[Examples], np.ndarray]:
    """The users' examples and the public ones of a trial, none of them twice."""
    rng = np.random.default_rng((seed, trial))
    order = rng.permutation(len(material.train.y))
    public, rest = order[:num_public], order[num_public:]
    taken = rest[: cell.num_clients * cell.examples].reshape(
        cell.num_clients, cell.examples
    )
    users = [Examples(material.train.x[rows], material.train.y[rows]) for rows in taken]
    return users, material.train.x[public]
