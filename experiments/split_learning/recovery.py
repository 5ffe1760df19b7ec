"""Recovers inputs from activations: an attack by a server that has pairs of both.

When clients train in turns, their weights pass through the server. So it can run the
client's layers on inputs of its own and make as many pairs as it likes. From these it
learns the linear map that best reconstructs inputs,

    x = mean x + (z - mean z) (Z^T Z + lambda I)^-1 Z^T X,

and applies it to the activations that clients send. `lambda` is the best of a few
values for the server, and so the worst for clients.

Source: ridge regression (Hoerl, Kennard 1970). A network would do no worse.
"""

from typing import NamedTuple

import numpy as np

from fedjax_comp.one_shot.collusion import mean_cosine

RIDGES = (1e-6, 1e-4, 1e-2, 1.0)
"""`lambda` over the largest squared singular value of Z."""


class Recovery(NamedTuple):
    """How near the server comes to inputs.

    Attributes:
      cosine: mean cosine of inputs with what is recovered.
      guessed: the same with the mean of the server's own inputs.
    """

    cosine: float
    guessed: float


def recover(
    own_inputs: np.ndarray,
    own_activations: np.ndarray,
    inputs: np.ndarray,
    activations: np.ndarray,
) -> Recovery:
    """What is recovered of inputs from their activations.

    Args:
      own_inputs: the server's, `[N, ...]`.
      own_activations: of these, `[N, ...]`.
      inputs: those it is after, `[M, ...]`.
      activations: as it received them, `[M, ...]`.

    >>> x = np.random.default_rng(0).normal(size=(50, 3))
    >>> round(recover(x, 2 * x + 1, x + 1, 2 * x + 3).cosine, 4)
    1.0
    """
    x, z, unknown, received = (
        values.reshape(len(values), -1).astype(np.float64)
        for values in (own_inputs, own_activations, inputs, activations)
    )
    mean, level = x.mean(0), z.mean(0)
    left, sizes, right = np.linalg.svd(z - level, full_matrices=False)
    along, towards = (received - level) @ right.T, left.T @ (x - mean)
    found = []
    for ridge in RIDGES:
        shrunk = sizes / (sizes**2 + ridge * max(sizes[0] ** 2, 1e-30))
        found.append(mean_cosine(unknown, mean + (along * shrunk) @ towards))
    return Recovery(max(found), mean_cosine(unknown, mean))
