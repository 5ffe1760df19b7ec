"""Learning rates that are known already, for instance from a grid tried before.

    --client_optimizer='sgd(rate)' --rate_of='dense: 0.3' --rate_of='eden-1: 0.1'

A variant that is given its rate is recorded with it, and none is tried.
"""

import math
from collections.abc import Collection, Mapping

from absl import flags

from fedjax_comp.experiment.main import UsageError


def define_known_rates(values: flags.FlagValues, told: str) -> None:
    """Defines `--rate_of`.

    Args:
      values: where.
      told: the flags that may say `rate`, in words.
    """
    flags.DEFINE_multi_string(
        "rate_of",
        None,
        f"'NAME: RATE': the rate of one variant where {told} says rate; it is then "
        "not among those for which --rate_grid tries some. Empty: drops those before.",
        flag_values=values,
    )


def parse_rate(flag: str, text: str) -> float:
    """A learning rate.

    Raises:
      UsageError: for what is no number above 0; it names the flag.

    >>> parse_rate("rate_grid", "3e-3")
    0.003
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UsageError(f"--{flag}: {text!r} is not a number above 0.")
    return value


def known_rates(values: flags.FlagValues) -> dict[str, float]:
    """The rates of `--rate_of` by the names of their variants.

    An empty one drops those before it, so that a flag file's can be chosen anew.

    Raises:
      UsageError: for what is not `NAME: RATE`, and for two rates of one variant.
    """
    found: dict[str, float] = {}
    for text in values.rate_of or ():
        if not text.strip():
            found.clear()
            continue
        name, colon, rate = (part.strip() for part in text.rpartition(":"))
        if not name or not colon:
            raise UsageError(
                f"--rate_of={text!r} is not of the form 'NAME: RATE', e.g. "
                "'dense: 0.1'."
            )
        if name in found:
            raise UsageError(f"--rate_of: {name} has two rates; leave one out.")
        found[name] = parse_rate("rate_of", rate)
    return found


def check_known_rates(
    known: Mapping[str, float],
    names: Collection[str],
    rated: Collection[str],
    *,
    has_grid: bool,
) -> None:
    """Refuses a rate of a variant that has no place for it, and a place without one.

    Args:
      known: as `known_rates`.
      names: of all variants.
      rated: of those that differ when the rate does.
      has_grid: whether those without a known rate try some.

    Raises:
      UsageError: for the first mistake.
    """
    for name, rate in known.items():
        if name not in names:
            raise UsageError(
                f"--rate_of='{name}: {rate:g}': there is no {name}; there are "
                f"{', '.join(names)}."
            )
        if name not in rated:
            raise UsageError(
                f"--rate_of='{name}: {rate:g}': {name} has a rate of its own; leave "
                "this out."
            )
    missing = [name for name in rated if name not in known]
    if missing and not has_grid:
        raise UsageError(
            f"No rate is given for {', '.join(missing)}: add "
            f"--rate_of='{missing[0]}: 0.1', or --rate_grid=0.03,0.1,0.3 to try some."
        )
