"""Examples held out of training: for validation, or as public unlabelled inputs."""

import numpy as np

from fedjax_comp import checks
from fedjax_comp.base import Examples
from fedjax_comp.data.sources.contract import Dataset


def hold_out(dataset: Dataset, share: float, *, seed: int) -> Dataset:
    """The data set with a share of its training examples in place of the test set.

    The share is held out of every natural client (`train_groups`), rounded down, so
    that every client goes on training and the held-out examples are of all of them.
    Without groups it is taken of all examples together.

    Args:
      dataset: in host memory.
      share: of the training examples, in (0, 1).
      seed: of the choice.

    Returns:
      `train` is what is left, in its order, and `test` what was held out.

    Raises:
      ValueError: for a share outside (0, 1), or one that holds out nothing.

    >>> from fedjax_comp.data.sources import load
    >>> digits = load("digits")
    >>> held = hold_out(digits, 0.1, seed=0)
    >>> len(digits.train.y), len(held.train.y), len(held.test.y)
    (1437, 1294, 143)
    """
    if not 0 < share < 1:
        raise ValueError(f"Expected share={share} of the examples in (0, 1).")
    count = len(dataset.train.y)
    groups = dataset.train_groups
    order = np.random.default_rng(seed).permutation(count)
    if groups is None:
        held = np.sort(order[: int(_few(share, np.array(count)))])
    else:
        # Each example's place in the random order of its own group.
        _, own, sizes = np.unique(groups, return_inverse=True, return_counts=True)
        by_group = order[np.argsort(own[order], kind="stable")]
        begins = np.cumsum(sizes) - sizes
        place = np.arange(count) - begins[own[by_group]]
        few = _few(share, sizes)[own[by_group]]
        held = np.sort(by_group[place < few])
    if len(held) == 0:
        raise ValueError(
            f"Expected share={share} to hold out an example of {dataset.name}: the "
            "largest client has too few; hold out more."
        )
    kept = np.setdiff1d(np.arange(count), held, assume_unique=True)
    return dataset._replace(
        train=_take(dataset.train, kept),
        test=_take(dataset.train, held),
        train_groups=None if groups is None else groups[kept],
        test_groups=None if groups is None else groups[held],
    )


def set_aside(dataset: Dataset, count: int, *, seed: int) -> tuple[Dataset, np.ndarray]:
    """The data set without some training examples, and the inputs of those.

    They are drawn from all training examples alike, as public inputs whose labels
    nobody is told (`fedjax_comp.algorithms.fed_distill`).

    Args:
      dataset: in host memory.
      count: `P`, how many.
      seed: of the choice, which is another one than that of `hold_out`.

    Returns:
      The data set, `train` in its order, and inputs `[P, ...]`, as they are stored.

    Raises:
      ValueError: for a count below one, or one that leaves nothing to train on.

    >>> from fedjax_comp.data.sources import load
    >>> left, public = set_aside(load("digits"), 500, seed=0)
    >>> len(left.train.y), public.shape
    (937, (500, 8, 8, 1))
    """
    there = len(dataset.train.y)
    checks.integer("public", count, minimum=1, maximum=there - 1)
    order = np.random.default_rng((seed, 1)).permutation(there)
    public, kept = np.sort(order[:count]), np.sort(order[count:])
    groups = dataset.train_groups
    left = dataset._replace(
        train=_take(dataset.train, kept),
        train_groups=None if groups is None else groups[kept],
    )
    return left, np.asarray(dataset.train.x[public])


def _few(share: float, counts: np.ndarray) -> np.ndarray:
    # A hair of tolerance: 0.29 * 100 is not to be rounded down to 28.
    return np.floor(share * counts + 1e-9).astype(int)


def _take(examples: Examples, rows: np.ndarray) -> Examples:
    return Examples(examples.x[rows], examples.y[rows])
