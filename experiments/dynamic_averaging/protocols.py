"""The protocols that are compared, as expressions of `--protocol`.

    --protocol='NAME: dynamic(0.5)'
    --protocol='NAME: periodic(8) | to_dtype("bfloat16") | identity()'

After the expression stand the compressors of the two links, where they differ from
`--uplink` and `--downlink`.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

from fedjax_comp.algorithms import dynamic_averaging
from fedjax_comp.algorithms.dynamic_averaging import Balancing, Counter
from fedjax_comp.algorithms.model_averaging import Trigger
from fedjax_comp.algorithms.variance_monitoring import variance_monitoring
from fedjax_comp.experiment.expressions import build
from fedjax_comp.experiment.pipelines import parse_named
from fedjax_comp.expression import parse


class Rule(NamedTuple):
    """What a protocol does.

    Attributes:
      family: what joins its point with others in a figure.
      acts: who takes part in an average; or `Lazy`, whose learners send gradients.
      every: local updates between two questions to the trigger, b.
      in_one_place: one learner with all the data, to whom nothing is sent.
    """

    family: str
    acts: "Trigger | Lazy"
    every: int
    in_one_place: bool = False


class Lazy(NamedTuple):
    """Gradients that are sent when they are news: what `lazy_gradients` takes."""

    weights: tuple[float, ...]
    max_silence: int


class Variant(NamedTuple):
    """A named protocol with its links, as expressions: the flags of its own run."""

    name: str
    protocol: str
    uplink: str
    downlink: str


def dynamic(
    delta: float,
    *,
    every: int = 1,
    balancing: Balancing = "augment",
    max_violations: Counter = "learners",
) -> Rule:
    """Dynamic averaging: local conditions are looked at every so many updates.

    With the paper's counter of violations, where the library's trigger has none.
    """
    trigger = dynamic_averaging.dynamic(
        delta, balancing=balancing, max_violations=max_violations
    )
    return Rule("dynamic", trigger, _at_least_one(every))


def fda(theta: float, *, every: int = 1) -> Rule:
    """All learners average when the variance of their models may exceed Theta."""
    return Rule("FDA", variance_monitoring(theta), _at_least_one(every))


def periodic(every: int) -> Rule:
    """All learners average every so many updates."""
    return Rule("periodic", dynamic_averaging.periodic(), _at_least_one(every))


def fed_avg(fraction: float, *, every: int = 1) -> Rule:
    """A random fraction of the learners averages every so many updates."""
    return Rule("FedAvg", dynamic_averaging.periodic(fraction), _at_least_one(every))


def none() -> Rule:
    """Learners on their own."""
    return Rule("none", dynamic_averaging.never(), 1)


def serial() -> Rule:
    """One learner with all the data, which updates as often as all others together."""
    return Rule("serial", dynamic_averaging.periodic(), 1, in_one_place=True)


def lazy(weight: float = 0.8, *, memory: int = 10, max_silence: int = 100) -> Rule:
    """Gradients after every update, of whom they are news (LAG); LAQ by its uplink.

    Args:
      weight: the sum of the weights of the last steps, all alike.
      memory: how many steps these are.
      max_silence: rounds after which a learner speaks anyhow.
    """
    if memory < 1:
        raise ValueError(f"Expected memory={memory} >= 1.")
    return Rule("lazy", Lazy((weight / memory,) * memory, max_silence), 1)


RULES = {f.__name__: f for f in (dynamic, fda, periodic, fed_avg, lazy, none, serial)}

FORM = (
    "'NAME: PROTOCOL' or 'NAME: PROTOCOL | UPLINK | DOWNLINK', e.g. "
    "'dynamic-half: dynamic(0.5)'"
)


def build_rule(text: str) -> Rule:
    """The rule that an expression describes; `ValueError` when it describes none."""
    # All that can be called returns one.
    return cast(Rule, parse(text, RULES, flag="protocol"))


def parse_variants(
    texts: Sequence[str], *, uplink: str, downlink: str
) -> list[Variant]:
    """All values of `--protocol`, each with a name of its own.

    Args:
      texts: the values.
      uplink: for those that name no links.
      downlink: for those that name no links.

    Raises:
      ValueError: when one is not of that form, an expression is not valid, or two have
        the same name.

    >>> parse_variants(
    ...     ["a: periodic(8)"], uplink="scaled_sign()", downlink="identity()"
    ... )[0].uplink
    'scaled_sign()'
    """
    variants = []
    for name, parts in parse_named("protocol", texts, FORM, counts=(1, 3)):
        variant = Variant(name, *[*parts, uplink, downlink][:3])
        build_rule(variant.protocol)
        build("uplink", variant.uplink)
        build("downlink", variant.downlink)
        variants.append(variant)
    return variants


def common_period(variants: Sequence[Variant]) -> int:
    """The fewest updates after which all protocols are at the end of a round."""
    return math.lcm(*(build_rule(variant.protocol).every for variant in variants))


def _at_least_one(every: int) -> int:
    if every < 1:
        raise ValueError(f"Expected every={every} >= 1.")
    return every
