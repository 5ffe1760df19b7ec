"""DP-FedAvg from flags: the clip, and the noise or the epsilon to reach.

McMahan, Ramage, Talwar and Zhang, "Learning differentially private recurrent language
models", 2018, algorithm 1, with cohorts of a fixed size; under a secure sum the clients
add the noise (Kairouz, Liu and Steinke 2021, algorithm 1).
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from absl import flags

from fedjax_comp.algorithms.secure_fed_avg import secure_fed_avg
from fedjax_comp.base import Compressor, PyTree
from fedjax_comp.experiment.algorithms import Chosen
from fedjax_comp.experiment.errors import UsageError
from fedjax_comp.experiment.expressions import build
from fedjax_comp.experiment.problem import Federation
from fedjax_comp.privacy.accounting import cohort_epsilon, require_library
from fedjax_comp.privacy.central import equally_weighted, gaussian_noise, mean_over
from fedjax_comp.privacy.clipping import clipped
from fedjax_comp.privacy.integers import length_of, require_floats
from fedjax_comp.privacy.messages import checked_threshold
from fedjax_comp.privacy.qualify import payload_like
from fedjax_comp.privacy.solving import distributed_epsilon, least_noise
from fedjax_comp.privacy.traced_noise import ClientNoise, client_noise
from fedjax_comp.run_directory import Json, RunDirectory
from fedjax_comp.server.aggregate import WeightedSum, weighted_mean

_NOISE = (1 << 31) - 1
"""Folded into the run's key: no round has this number."""


_SECURE = secure_fed_avg.__name__


class Mechanism(NamedTuple):
    """What the flags change about a run; nothing, without `--dp_clip`.

    Attributes:
      federation: with clipped uplinks and clients of equal weights.
      server_optimizer: with noise before it.
      aggregation: what becomes of the sum.
      noise: what clients add under a secure sum; None elsewhere.
    """

    federation: Federation
    server_optimizer: optax.GradientTransformation
    aggregation: Callable[[WeightedSum], PyTree]
    noise: ClientNoise | None = None


class Setting(NamedTuple):
    """What epsilon depends on besides the noise.

    Attributes:
      clip: the largest norm of an update.
      rounds: how many.
      delta: at which epsilon is told.
      cohort_size: `C`.
      population: `K`.
      fewest: clients whose noise is in every sum; None where the server adds it.
      n: numbers that a client sends under a secure sum.
    """

    clip: float
    rounds: int
    delta: float
    cohort_size: int
    population: int
    fewest: int | None = None
    n: int = 0

    @property
    def accountant(self) -> str:
        """Whose theorem epsilon is by."""
        sampled = self.cohort_size < self.population
        if self.fewest is None:
            return (
                "dp-accounting: Rényi, Wang et al. 2019, theorem 27"
                if sampled
                else "exact: Balle and Wang 2018, theorem 8"
            )
        whole = "concentrated: Kairouz et al. 2021, theorem 1"
        return whole + sampled * "; sampled by Wang et al. 2019, theorem 9"

    def noise(self, noise_multiplier: float) -> ClientNoise:
        """What each client adds under a secure sum."""
        assert self.fewest is not None
        return client_noise(
            clip=self.clip,
            noise_multiplier=noise_multiplier,
            fewest=self.fewest,
            n=self.n,
        )

    def epsilon(self, noise_multiplier: float) -> float:
        """What the noise leaves; infinite without."""
        if self.fewest is not None:
            return distributed_epsilon(
                self.noise(noise_multiplier),
                n=self.n,
                fewest=self.fewest,
                rounds=self.rounds,
                delta=self.delta,
                cohort_size=self.cohort_size,
                population=self.population,
            )
        if self.cohort_size < self.population:
            require_library()
        return cohort_epsilon(
            noise_multiplier=noise_multiplier,
            rounds=self.rounds,
            delta=self.delta,
            cohort_size=self.cohort_size,
            population=self.population,
        )


def define_privacy(values: flags.FlagValues) -> None:
    """Adds the flags of secure sums and of differential privacy."""
    # None and not a value, so that directories from before these flags can be resumed.
    flags.DEFINE_bool(
        "secure_sum",
        None,
        "The server sees the sum of the updates alone, of messages under masks: the "
        f"same as --algorithm='{_SECURE}()', which has arguments.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "dp_epsilon",
        None,
        "Differential privacy: the epsilon that all rounds together may come to; what "
        "noise that takes is solved for, in place of --dp_noise_multiplier.",
        flag_values=values,
    )
    for name, default, text in (
        ("dp_clip", None, "Differential privacy: the norm updates are clipped to."),
        ("dp_noise_multiplier", 1.0, "Noise on the sum of updates, over --dp_clip."),
        ("dp_delta", 1e-5, "The delta at which epsilon is told."),
    ):
        flags.DEFINE_float(name, default, text, flag_values=values)


def is_private(values: flags.FlagValues) -> bool:
    """Whether the flags, where the experiment has them, ask for privacy."""
    return "dp_clip" in values and values.dp_clip is not None


def asked_algorithm(values: flags.FlagValues, text: str | None = None) -> Chosen:
    """The algorithm of the flags; that of `--secure_sum` is `secure_fed_avg()`.

    Args:
      values: the flags.
      text: the algorithm in place of `--algorithm`: a pipeline's own.

    Raises:
      UsageError: for `--secure_sum` beside another one, or on simulated links.
    """
    text = values.algorithm if text is None else text
    chosen: Chosen = build("algorithm", text)
    if "secure_sum" in values and values.secure_sum:
        if chosen.name == "fed_avg" and not chosen.own:
            chosen = Chosen(_SECURE, {})
        elif chosen.name != _SECURE:
            raise UsageError(
                f"--secure_sum with --algorithm={text}: sums under masks "
                f"are those of {_SECURE}(...) alone."
            )
    if chosen.name == _SECURE:
        for name in ("network", "devices"):
            if name in values and values[name].value:
                raise UsageError(
                    f"--{name} with a secure sum, whose clients send four messages a "
                    "round: a link is simulated for one; leave one of the two out."
                )
    return chosen


def check_asked_for(values: flags.FlagValues) -> None:
    """Refuses flags of privacy that a run would ignore.

    Raises:
      UsageError: for noise without a clip, and for two that say how much.
    """

    def is_set(name: str) -> bool:
        # A variant's flags are given by value: what they say is all there is.
        return name in values and values[name].value != values[name].default

    if not is_private(values):
        for name in ("dp_epsilon", "dp_noise_multiplier", "dp_delta"):
            if is_set(name) or (name in values and values[name].present):
                raise UsageError(f"--{name} needs --dp_clip: nothing is private yet.")
        return
    if not (values.dp_clip > 0 and math.isfinite(values.dp_clip)):
        raise UsageError(f"--dp_clip={values.dp_clip}: a norm above 0 was expected.")
    if is_set("dp_epsilon") and is_set("dp_noise_multiplier"):
        raise UsageError(
            "--dp_epsilon and --dp_noise_multiplier: the one follows from the other; "
            "leave one out."
        )


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
    check_asked_for(values)
    if not is_private(values):
        return Mechanism(federation, server_optimizer, weighted_mean)
    chosen = asked_algorithm(values)
    if chosen.name == _SECURE and "levels" in chosen.own:
        raise UsageError(
            f"--dp_clip with --algorithm={values.algorithm}: the grid follows from the "
            "clip; leave levels and limit out."
        )
    like = jax.eval_shape(lambda: federation.task.init(jax.random.key(0)))
    setting = setting_of(values, federation.uplink, like)
    try:
        z = noise_multiplier(values, setting)
        setting._replace(rounds=1).epsilon(z)
    except ValueError as error:
        raise UsageError(
            f"--dp_epsilon, --dp_noise_multiplier, --dp_delta: {error}"
        ) from error
    if setting.fewest is not None:
        return Mechanism(federation, server_optimizer, weighted_mean, setting.noise(z))
    stddev = z * values.dp_clip / values.cohort_size
    noise_key = jax.random.fold_in(run_key, _NOISE)
    return Mechanism(
        federation._replace(
            uplink=clipped(federation.uplink, values.dp_clip),
            sample=equally_weighted(federation.sample),
        ),
        optax.chain(gaussian_noise(noise_key, stddev=stddev), server_optimizer),
        mean_over(values.cohort_size),
    )


def setting_of(values: flags.FlagValues, uplink: Compressor, params: PyTree) -> Setting:
    """What the flags say of epsilon."""
    setting = Setting(
        clip=values.dp_clip,
        rounds=values.num_rounds,
        delta=values.dp_delta,
        cohort_size=values.cohort_size,
        population=values.num_clients,
    )
    chosen = asked_algorithm(values)
    if chosen.name != _SECURE:
        return setting
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32), params)
    template = payload_like(uplink, like)
    require_floats(template)
    asked = chosen.own.get("threshold")
    fewest = checked_threshold(
        asked if isinstance(asked, int) else None, values.cohort_size
    )
    return setting._replace(fewest=fewest, n=length_of(template))


def noise_multiplier(values: flags.FlagValues, setting: Setting) -> float:
    """That of the flag, or the least with which epsilon is not above `--dp_epsilon`."""
    if values.dp_epsilon is None:
        return float(values.dp_noise_multiplier)
    return _least(setting, values.dp_epsilon)


@functools.lru_cache(maxsize=32)
def _least(setting: Setting, epsilon: float) -> float:
    return least_noise(setting.epsilon, epsilon)


def privacy_spent(
    values: flags.FlagValues,
) -> Callable[[RunDirectory, PyTree], Json]:
    """What adds `epsilon` (None without noise) and its kin to a private run's summary.

    Epsilon is that of all rounds asked for, though a run may stop before.
    """

    def finish(directory: RunDirectory, params: PyTree) -> Json:
        del directory
        if not is_private(values):
            return {}
        setting = setting_of(values, build("uplink", values.uplink), params)
        z = noise_multiplier(values, setting)
        epsilon = setting.epsilon(z)
        return {
            "epsilon": epsilon if math.isfinite(epsilon) else None,
            "delta": values.dp_delta,
            "noise_multiplier": z,
            "accountant": setting.accountant,
        }

    return finish
