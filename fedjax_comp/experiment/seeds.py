"""A comparison over seeds: every variant runs once a seed; means, and their noise.

Ratios, targets and claims are computed within each seed, against the first variant with
the same seed, so that the chance in what a seed needs falls on both. Means and standard
deviations are then taken over the seeds.
"""

import math
import re
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import flags

from fedjax_comp.experiment.errors import UsageError
from fedjax_comp.experiment.flags import as_dict
from fedjax_comp.keys import MAX_SEED
from fedjax_comp.report import Number, mean_row
from fedjax_comp.run_directory import Json

STUDENT = (
    *(6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812),
    *(1.796, 1.782, 1.771, 1.761, 1.753, 1.746, 1.740, 1.734, 1.729, 1.725),
    *(1.721, 1.717, 1.714, 1.711, 1.708, 1.706, 1.703, 1.701, 1.699, 1.697),
)
"""Standard errors that Student's t of 1, 2, ... degrees of freedom exceeds with a
chance of 5 % (Gosset, "The probable error of a mean", 1908)."""


def define_seeds(values: flags.FlagValues) -> None:
    """Defines `--num_seeds`, unless the experiment has its own."""
    if "num_seeds" not in values:
        flags.DEFINE_integer(
            "num_seeds",
            1,
            "Runs of each variant, with --seed and the following ones.",
            flag_values=values,
            lower_bound=1,
        )


def values_of_seed(
    blank: Callable[[], flags.FlagValues], values: flags.FlagValues, index: int
) -> flags.FlagValues:
    """The command's flags for one of its seeds; the first runs as a single seed would.

    Args:
      blank: makes the command's flags.
      values: its own.
      index: which seed; the second's runs are below `--workdir/seed-S`.
    """
    if index == 0:
        return values
    own = blank()
    own([""])
    seed = values.seed + index
    settings = {
        **as_dict(values),
        "seed": seed,
        "workdir": str(Path(values.workdir) / f"seed-{seed}"),
    }
    if settings.get("run_id") is not None:
        settings["run_id"] = f"{settings['run_id']}.seed-{seed}"
    for name, value in settings.items():
        own[name].value = value
    return own


def check_seeds(values: flags.FlagValues, count: int) -> None:
    """Refuses seeds beyond the largest.

    Raises:
      UsageError: when the last of `count` seeds from `--seed` on is.
    """
    if values.seed + count - 1 > MAX_SEED:
        raise UsageError(
            f"--seed={values.seed} with --num_seeds={count}: the last seed is beyond "
            f"{MAX_SEED}."
        )


def mean_rows(each: Sequence[Sequence[Json]]) -> list[Json]:
    """`mean_row` of each variant; one that failed with a seed has failed.

    Args:
      each: the rows of each seed, of the same variants.
    """
    rows = []
    for of_one in zip(*each, strict=True):
        failed = [row["reason"] for row in of_one if row["reason"]]
        told = f"{len(failed)} of {len(of_one)} seeds: {failed[0]}" if failed else ""
        rows.append({**mean_row(of_one), "reason": told})
    return rows


def claims_over_seeds(each: Sequence[Sequence[Json]]) -> list[Json]:
    """Claims that hold beyond the noise of their seeds.

    A claim holds when it could be checked with every seed and its mean distance from
    the bound is more than `STUDENT` standard errors; where all seeds gave the same
    number, when that number holds.

    Args:
      each: the claims of each seed, as `fedjax_comp.experiment.outcome.claim` makes
        them. What stands in brackets in a name may differ: a best rival is that of its
        seed.

    >>> def of(*measured):
    ...     return [
    ...         [{"name": "gain", "target": 1.0, "measured": x, "holds": x >= 1.0,
    ...           "bound": "at_least"}] for x in measured]
    >>> claims_over_seeds(of(1.5, 1.6, 1.4))[0]["holds"]
    True
    >>> claims_over_seeds(of(1.01, 1.5, 0.99))[0]["holds"]  # .17 +- .29 above
    False
    """
    grouped: dict[str, list[Json]] = {}
    for claims in each:
        for one in claims:
            plain = re.sub(r" \([^()]*\)", "", one["name"])
            grouped.setdefault(plain, []).append(one)
    return [_over_seeds(name, ones, len(each)) for name, ones in grouped.items()]


def _over_seeds(name: str, ones: Sequence[Json], num_seeds: int) -> Json:
    # A target may be each seed's own, such as the first variant's accuracy.
    sign = -1 if ones[0]["bound"] == "at_most" else 1
    margins = [sign * (one["measured"] - one["target"]) for one in ones]
    is_finite = all(map(math.isfinite, margins))
    spread = statistics.stdev(margins) if is_finite and len(margins) > 1 else 0.0
    holds = is_finite and all(one["holds"] for one in ones)
    if spread > 0:
        quantile = STUDENT[min(len(margins) - 1, len(STUDENT)) - 1]
        error = spread / math.sqrt(len(margins))
        holds = statistics.fmean(margins) > quantile * error
    told = "" if len(ones) == num_seeds else f" ({len(ones)} of {num_seeds} seeds)"
    measured = [one["measured"] for one in ones]
    known = {"by_construction": True} if ones[0].get("by_construction") else {}
    return {
        **known,
        "name": name + told,
        "target": _rounded(statistics.fmean(one["target"] for one in ones)),
        "measured": _rounded(statistics.fmean(measured)),
        "sd": _rounded(_deviation(measured)),
        "holds": bool(holds and len(ones) == num_seeds),
        "bound": ones[0]["bound"],
    }


def _deviation(values: Sequence[float]) -> float:
    if not all(map(math.isfinite, values)):
        return math.nan
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _rounded(value: float) -> Number:
    return int(value) if float(value).is_integer() else round(value, 5)
