"""How much activations reveal of the inputs: distance correlation, and an attack.

Source: Szekely, Rizzo and Bakirov 2007, "Measuring and testing dependence by
correlation of distances", definitions 4 and 5; for smashed data: Vepakomma, Gupta,
Dubey and Raskar 2019, "Reducing leakage in distributed deep learning for sensitive
health data".
"""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.split_learning.problem import Setting, build_split
from experiments.split_learning.recovery import recover
from fedjax_comp.algorithms.links.split_exchange import send
from fedjax_comp.base import Compressor, PyTree, make_context
from fedjax_comp.keys import make_key
from fedjax_comp.models.split import cuts, params_of
from fedjax_comp.run_directory import Json
from fedjax_comp.wire.traffic import to_server

OWN = 1000
"""Images of the server's own, of which it makes pairs with activations."""


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
    """What activations tell of inputs at every cut of a model.

    Args:
      setting: model and data; the first test examples are taken.
      before: parameters at the start of training.
      after: those at its end.
      num_examples: how many examples.

    Returns:
      A row for every cut: distance correlation `untrained` and `trained`, and
      `recovered_cosine` of the trained one.
    """
    rows = []
    for cut in cuts(setting.module, input_shape=setting.dataset.test.x.shape[1:]):
        told = leakage_of(setting, cut, after, num_examples)
        blank = leakage_of(setting, cut, before, num_examples)
        rows.append(
            {
                "cut": cut,
                "activations": told["activations"],
                "untrained": blank["distance_correlation"],
                "trained": told["distance_correlation"],
                "recovered_cosine": told["recovered_cosine"],
            }
        )
    return rows


def leakage_of(
    setting: Setting,
    cut: str,
    params: PyTree,
    num_examples: int,
    *,
    uplink: Compressor | None = None,
    batch_size: int = 1,
) -> Json:
    """What the activations of a model tell at one cut, as the server receives them.

    The server's own pairs are made of the first training images, `OWN` at most.

    Args:
      setting: model and data.
      cut: the layer before which the model is cut.
      params: of the whole model.
      num_examples: test examples that it is after.
      uplink: of the activations, without memory; as they are when None.
      batch_size: examples in a message.
    """
    dataset = setting.dataset
    part, *_ = build_split(setting, (cut,)).parts
    weights = params_of(part.names, params)

    @jax.jit
    def smashed(x: jax.Array) -> jax.Array:
        hidden = part.apply(weights, x)
        if uplink is None:
            return hidden
        context = make_context(make_key(0), 0)
        return send(uplink, context, hidden, to_server(0))[0]

    def received(x: np.ndarray) -> np.ndarray:
        ends = range(0, len(x), batch_size if uplink else len(x))
        size = ends.step
        return np.concatenate(
            [np.asarray(smashed(jnp.asarray(x[i : i + size]))) for i in ends]
        )

    x, own = dataset.test.x[:num_examples], dataset.train.x[:OWN]
    hidden = received(x)
    found = recover(own, received(own), x, hidden)
    return {
        "activations": int(np.prod(hidden.shape[1:])),
        "distance_correlation": distance_correlation(x, hidden),
        "recovered_cosine": found.cosine,
        "guessed_cosine": found.guessed,
    }
