"""What the server and one party together recover of the others: maps, then inputs.

Whoever knows the anchor A and its image f(A) knows f on the anchor's rows, and f is
affine. The server has every party's f_i(A); any one party has A. Together they solve

    f_i(A) - mean = (A - mean) M

for M, which `d + 1` independent rows determine, even if f was permuted or drawn at
random. With fewer rows they take the solution of least size in the geometry of their
own data, C = root^2, and count the unknown part of M as noise. An input is then
estimated from its representation z by the best linear estimate,

    x = mu + C M (M^T C M + v I)^-1 (z - mean z),

with v the variance of that noise and of what was added to z on purpose.

Source: ours, by least squares and the best linear estimate (Gauss, Markov); the
protocol is that of `data_collaboration`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

SHRINKAGES = (0.1, 0.5, 1.0)
"""How far the covariance of own inputs is taken towards a multiple of the identity.
With the whole way, a map is inverted by its own directions: right for maps that were
made from the inputs. An attack tries all."""

_CUT = 1e-10
"""Singular values below so much of the largest are taken for zero."""


class Prior(NamedTuple):
    """What a colluding party's own inputs say about anybody's inputs.

    Attributes:
      mean: `mu`, float64 `[d]`.
      root: symmetric root of `C`, float64 `[d, d]`.
    """

    mean: np.ndarray
    root: np.ndarray


class RecoveredMap(NamedTuple):
    """The linear part of a party's map, as far as it is determined.

    Attributes:
      matrix: `M`, float64 `[d, m]`.
      variance: of a component of `z`, due to the unknown part of `M`; 0 for an anchor
        that determines `M`.
    """

    matrix: np.ndarray
    variance: float


def prior_of(own: np.ndarray, *, shrinkage: float) -> Prior:
    """Mean and covariance of inputs, shrunk so that no direction is ruled out.

    Args:
      own: a colluding party's inputs, `[N, d]`.
      shrinkage: in (0, 1].

    Raises:
      ValueError: for a shrinkage outside (0, 1].

    >>> prior_of(np.array([[1.0, 0.0], [3.0, 0.0]]), shrinkage=1.0).root.tolist()
    [[0.7071067811865476, 0.0], [0.0, 0.7071067811865476]]
    """
    if not 0 < shrinkage <= 1:
        raise ValueError(f"Expected shrinkage={shrinkage} in (0, 1].")
    mean = own.mean(0, dtype=np.float64)
    centred = own - mean
    covariance = centred.T @ centred / len(own)
    level = np.trace(covariance) / len(covariance) or 1.0
    values, vectors = np.linalg.eigh((1 - shrinkage) * covariance)
    root = np.sqrt(np.maximum(values, 0) + shrinkage * level)
    return Prior(mean, (vectors * root) @ vectors.T)


def recover_maps(
    anchor: np.ndarray, images: Sequence[np.ndarray], prior: Prior
) -> list[RecoveredMap]:
    """The parties' maps, from the image of the anchor under each.

    Args:
      anchor: `A`, `[r, d]`.
      images: `f_i(A)` as the server received it, `[r, m_i]` for each party.
      prior: of the party that knows `A`.

    Returns:
      The maps of least size under the prior that fit best: the true ones when the
      anchor has `d + 1` independent rows and the images are as they were made.

    >>> rng = np.random.default_rng(0)
    >>> anchor, matrix = rng.normal(size=(4, 3)), rng.normal(size=(3, 2))
    >>> prior = prior_of(anchor, shrinkage=0.5)
    >>> (found,) = recover_maps(anchor, [anchor @ matrix + 5], prior)
    >>> bool(np.allclose(found.matrix, matrix)), round(found.variance, 9)
    (True, 0.0)
    """
    scaled = (anchor - anchor.mean(0, dtype=np.float64)) @ prior.root
    left, values, right = np.linalg.svd(scaled, full_matrices=False)
    seen = values > _CUT * values[0]
    left, values, right = left[:, seen], values[seen], right[seen]
    covariance = prior.root @ prior.root
    along = right @ covariance
    unseen = max(0.0, float(np.sum(covariance**2) - np.sum(along**2)))
    found = []
    for image in images:
        centred = image - image.mean(0, dtype=np.float64)
        inner = right.T @ ((left.T @ centred) / values[:, None])
        size = float(np.sum(inner**2)) / (len(values) * inner.shape[1])
        found.append(RecoveredMap(prior.root @ inner, size * unseen))
    return found


def recover_inputs(
    representations: np.ndarray,
    recovered: RecoveredMap,
    prior: Prior,
    *,
    noise_variance: float = 0.0,
) -> np.ndarray:
    """A party's inputs from what it uploaded.

    Args:
      representations: `f_i(X_i)` as the server received it, `[N, m]`.
      recovered: the party's map, from `recover_maps`.
      prior: of the colluding party; the mean of the inputs is taken to be its own.
      noise_variance: of what was added to each number on purpose, which all know.

    Returns:
      The best linear estimate, float64 `[N, d]`.

    >>> x = np.random.default_rng(0).normal(size=(9, 3))
    >>> prior = prior_of(x, shrinkage=0.5)
    >>> found = recover_inputs(2 * x - 7, RecoveredMap(2 * np.eye(3), 0.0), prior)
    >>> bool(np.allclose(found, x))
    True
    """
    spread = prior.root @ recovered.matrix
    noise = recovered.variance + noise_variance
    gram = spread.T @ spread + noise * np.eye(spread.shape[1])
    centred = representations - representations.mean(0, dtype=np.float64)
    weights = np.linalg.lstsq(gram, centred.T, rcond=_CUT)[0]
    return prior.mean + (prior.root @ (spread @ weights)).T


def mean_cosine(x: np.ndarray, guess: np.ndarray) -> float:
    """The mean cosine of inputs and guesses; an input or guess of zeros counts 0.

    Args:
      x: `[N, d]`.
      guess: `[N, d]`, or `[d]`, one for all.

    >>> mean_cosine(np.eye(2), np.array([1.0, 0.0]))
    0.5
    """
    guess = np.broadcast_to(guess, x.shape)
    sizes = np.linalg.norm(x, axis=1) * np.linalg.norm(guess, axis=1)
    dots = (x * guess).sum(1)
    return float(np.mean(dots / np.where(sizes > 0, sizes, np.inf)))


class Leakage(NamedTuple):
    """How near the server and one party come to the others' inputs.

    Attributes:
      cosine: mean cosine of the inputs and their recovered estimates, with the best of
        `SHRINKAGES`.
      guessed: the same with the colluding party's mean input as estimate, which needs
        no message.
    """

    cosine: float
    guessed: float


def leakage(
    anchor: np.ndarray,
    images: Sequence[np.ndarray],
    representations: Sequence[np.ndarray],
    inputs: Sequence[np.ndarray],
    *,
    noise_variance: float = 0.0,
) -> Leakage | None:
    """What the server recovers together with the first party.

    Args:
      anchor: `A`, `[r, d]`.
      images: `f_i(A)` as received, `[r, m_i]` for each party.
      representations: `f_i(X_i)` as received, `[N_i, m_i]`.
      inputs: `X_i`, `[N_i, d]`; the first party's are what it knows, the others' what
        the guesses are held against.
      noise_variance: added to the representations on purpose.

    Returns:
      The leakage; None for a single party, which has nobody to betray.
    """
    if len(inputs) < 2:
        return None
    truth = np.concatenate(inputs[1:])
    found = []
    for shrinkage in SHRINKAGES:
        prior = prior_of(inputs[0], shrinkage=shrinkage)
        maps = recover_maps(anchor, images[1:], prior)
        guesses = [
            recover_inputs(z, own, prior, noise_variance=noise_variance)
            for z, own in zip(representations[1:], maps, strict=True)
        ]
        found.append(mean_cosine(truth, np.concatenate(guesses)))
    return Leakage(max(found), mean_cosine(truth, inputs[0].mean(0)))
