"""DP-FedAvg by three flags: the clip, the noise, and the epsilon that they leave.

McMahan, Ramage, Talwar and Zhang, "Learning differentially private recurrent language
models", 2018, algorithm 1, with cohorts of a fixed size.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import optax
from absl import flags

from fedjax_comp.base import PyTree
from fedjax_comp.experiment.main import UsageError
from fedjax_comp.experiment.problem import Federation
from fedjax_comp.privacy.accounting import cohort_epsilon, require_library
from fedjax_comp.privacy.central import equally_weighted, gaussian_noise, mean_over
from fedjax_comp.privacy.clipping import clipped
from fedjax_comp.run_directory import Json, RunDirectory
from fedjax_comp.server.aggregate import WeightedSum, weighted_mean

_NOISE = (1 << 31) - 1
"""Folded into the run's key: no round has this number."""


class Mechanism(NamedTuple):
    """What the flags change about a run; nothing, without `--dp_clip`.

    Attributes:
      federation: with clipped uplinks and clients of equal weights.
      server_optimizer: with noise before it.
      aggregation: what becomes of the sum.
    """

    federation: Federation
    server_optimizer: optax.GradientTransformation
    aggregation: Callable[[WeightedSum], PyTree]


def define_privacy(values: flags.FlagValues) -> None:
    """Adds the flags of differential privacy."""
    for name, default, text in (
        ("dp_clip", None, "Differential privacy: the norm updates are clipped to."),
        ("dp_noise_multiplier", 1.0, "Noise on the sum of updates, over --dp_clip."),
        ("dp_delta", 1e-5, "The delta at which epsilon is told."),
    ):
        flags.DEFINE_float(name, default, text, flag_values=values)


def is_private(values: flags.FlagValues) -> bool:
    """Whether the flags, where the experiment has them, ask for privacy."""
    return "dp_clip" in values and values.dp_clip is not None


def make_private(
    values: flags.FlagValues,
    federation: Federation,
    server_optimizer: optax.GradientTransformation,
    run_key: jax.Array,
) -> Mechanism:
    """Clips, weights alike, divides by the cohort's size and adds noise.

    Raises:
      UsageError: when a flag is none.
      MissingExtra: when `dp-accounting` is needed and missing.
    """
    if not is_private(values):
        for name in ("dp_noise_multiplier", "dp_delta"):
            if name in values and values[name].present:
                raise UsageError(f"--{name} needs --dp_clip: nothing is private yet.")
        return Mechanism(federation, server_optimizer, weighted_mean)
    try:
        _epsilon(values, rounds=1)
    except ValueError as error:
        raise UsageError(f"--dp_noise_multiplier, --dp_delta: {error}") from error
    cohort_size = values.cohort_size
    stddev = values.dp_noise_multiplier * values.dp_clip / cohort_size
    noise_key = jax.random.fold_in(run_key, _NOISE)
    return Mechanism(
        federation._replace(
            uplink=clipped(federation.uplink, values.dp_clip),
            sample=equally_weighted(federation.sample),
        ),
        optax.chain(gaussian_noise(noise_key, stddev=stddev), server_optimizer),
        mean_over(cohort_size),
    )


def privacy_spent(
    values: flags.FlagValues,
) -> Callable[[RunDirectory, PyTree], Json]:
    """What adds `epsilon` (None without noise) and `delta` to a private run's summary.

    Epsilon is that of all rounds asked for, though a run may stop before.
    """

    def finish(directory: RunDirectory, params: PyTree) -> Json:
        del directory, params
        if not is_private(values):
            return {}
        return {
            "epsilon": _epsilon(values, rounds=values.num_rounds),
            "delta": values.dp_delta,
        }

    return finish


def _epsilon(values: flags.FlagValues, rounds: int) -> float | None:
    if values.cohort_size < values.num_clients:
        require_library()
    epsilon = cohort_epsilon(
        noise_multiplier=values.dp_noise_multiplier,
        rounds=rounds,
        delta=values.dp_delta,
        cohort_size=values.cohort_size,
        population=values.num_clients,
    )
    return None if epsilon == float("inf") else epsilon
