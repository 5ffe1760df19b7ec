"""How much activations tell of the inputs: distance correlation.

Source: Szekely, Rizzo and Bakirov 2007, "Measuring and testing dependence by
correlation of distances", definitions 4 and 5; for smashed data: Vepakomma, Gupta,
Dubey and Raskar 2019, "Reducing leakage in distributed deep learning for sensitive
health data".
"""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.split_learning.problem import Setting, build_split
from fedjax_comp.base import PyTree
from fedjax_comp.models.split import cuts, params_of
from fedjax_comp.run_directory import Json


def distance_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Between two samples, from 0 (independent) to 1.

        dCor = sqrt(<A, B> / sqrt(<A, A> <B, B>))

    with A and B the doubly centred matrices of Euclidean distances.

    Args:
      x: `[N, ...]`.
      y: `[N, ...]`, of the same examples.

    Returns:
      The correlation; 0 when either sample is constant. Finite samples of independent
      variables are above 0, the more so the higher their dimension.

    >>> x = np.arange(5.0)[:, None]
    >>> round(distance_correlation(x, 3 - 2 * x), 6)
    1.0
    """
    a, b = (_centred_distances(np.asarray(v, np.float64)) for v in (x, y))
    scale = np.sqrt((a * a).mean() * (b * b).mean())
    return float(np.sqrt(max((a * b).mean(), 0) / scale)) if scale > 0 else 0.0


def _centred_distances(values: np.ndarray) -> np.ndarray:
    flat = values.reshape(len(values), -1)
    squares = (flat * flat).sum(axis=1)
    gram = squares[:, None] + squares[None, :] - 2 * flat @ flat.T
    distances = np.sqrt(np.maximum(gram, 0))
    np.fill_diagonal(distances, 0)
    rows = distances.mean(axis=0)
    return distances - rows[:, None] - rows[None, :] + rows.mean()


def leakage_table(
    setting: Setting, before: PyTree, after: PyTree, num_examples: int
) -> list[Json]:
    """Distance correlation of inputs and activations at every cut of a model.

    Args:
      setting: model and data; the first test examples are taken.
      before: parameters at the start of training.
      after: those at its end.
      num_examples: how many examples.

    Returns:
      A row for every cut.
    """
    dataset = setting.dataset
    x = dataset.test.x[:num_examples]
    rows = []
    for cut in cuts(setting.module, input_shape=x.shape[1:]):
        part, _ = build_split(setting, (cut,)).parts

        def smashed(params: PyTree, part: PyTree = part) -> np.ndarray:
            own = params_of(part.names, params)
            return np.asarray(jax.jit(part.apply)(own, jnp.asarray(x)))

        hidden = smashed(after)
        rows.append(
            {
                "cut": cut,
                "activations": int(np.prod(hidden.shape[1:])),
                "untrained": distance_correlation(x, smashed(before)),
                "trained": distance_correlation(x, hidden),
            }
        )
    return rows
