"""The ladder of messages and the controllers that choose from it, by name."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from fedjax_comp.base import Compressor
from fedjax_comp.compress import (
    chain,
    flattened,
    per_client,
    rotate,
    trellis,
)
from fedjax_comp.compress.budget.ladder import ladder
from fedjax_comp.compress.schemes.quantizers import eden_fixed_rate
from fedjax_comp.network import control
from fedjax_comp.network.arrival_control import everyone_speaks, first_arrivals
from fedjax_comp.network.control import Controller, Ladder
from fedjax_comp.network.steering import steered
from fedjax_comp.network.timed_control import hardware_aware, water_filled


def _trellis(bits: float) -> Compressor:
    return flattened(chain(per_client(rotate()), trellis(bits)))


RUNGS: dict[str, Callable[[], Compressor]] = {
    "0.015625": lambda: eden_fixed_rate(1 / 64),
    "0.0625": lambda: eden_fixed_rate(0.0625),
    "0.25": lambda: eden_fixed_rate(0.25),
    "0.5-trellis": lambda: _trellis(0.5),
    "1": lambda: eden_fixed_rate(1),
    "2": lambda: eden_fixed_rate(2),
    "4": lambda: eden_fixed_rate(4),
}
"""Bits a coordinate; a trellis has less error for its bits and takes long to encode."""

LADDER = tuple(name for name in RUNGS if name != "0.015625")
"""The rungs of the command without flags: all but the shortest."""

LEAF_RUNGS = ("0.25", "1", "2", "4")
"""Of every leaf by itself, for the controller of layers."""


def make_uplink(names: Sequence[str], *, per_leaf: bool) -> Compressor:
    """The compressor that all methods share, or that of the controller of layers.

    Args:
      names: of the rungs.
      per_leaf: whether every leaf travels by itself, on the rungs for leaves.
    """
    used = [name for name in names if not per_leaf or name in LEAF_RUNGS]
    return steered(ladder(*(RUNGS[name]() for name in used)), per_leaf=per_leaf)


class Method(NamedTuple):
    """How budgets are set.

    Attributes:
      make: `(ladder) -> Controller`, of the measured ladder.
      per_leaf: whether every leaf has a budget of its own.
      report_share: share of the cohort that closes a round (over-selection); 1 is all.
      rung: the one rung that it is about; None where it chooses from all.
    """

    make: Callable[[Ladder], Controller]
    per_leaf: bool = False
    report_share: float = 1.0
    rung: str | None = None


def _fixed(name: str, report_share: float = 1.0) -> Method:
    rate = float(name.removesuffix("-trellis"))
    # A rung is a few bits of scale above its rate, and far from the next one.
    return Method(
        lambda ladder: control.fixed(_bits(ladder, rate)),
        report_share=report_share,
        rung=name,
    )


def _everyone(name: str) -> Method:
    return Method(
        lambda ladder: everyone_speaks(
            ladder, _bits(ladder, float(name)), share=LEAST_SHARE
        ),
        rung=name,
    )


def _bits(ladder: Ladder, rate: float) -> float:
    return rate * ladder.num_parameters + 64.0


KAPPA = 0.03
"""Chosen in hindsight, after fixed settings with many times the error had taken hardly
more rounds: at so small a step variance costs less than the rule says."""

LEAST_SHARE = 0.6
"""The share of the cohort that over-selection waits for in `fixed-*-6of10`."""

METHODS: dict[str, Method] = {
    **{f"fixed-{name}": _fixed(name) for name in RUNGS},
    **{
        f"fixed-{name}-{count}of10": _fixed(name, count / 10)
        for count in (8, 6)
        for name in ("0.015625", "0.0625", "0.25", "1", "4")
    },
    "kimad": Method(lambda ladder: control.kimad(0.25)),
    "accordion": Method(
        lambda ladder: control.accordion(_bits(ladder, 0.5), _bits(ladder, 2.0))
    ),
    "adaquantfl-rising": Method(
        lambda ladder: control.ada_quant(ladder.num_parameters, levels=1)
    ),
    "adaquantfl-falling": Method(
        lambda ladder: control.ada_quant(ladder.num_parameters, levels=3, rising=False)
    ),
    "dadaquant": Method(lambda ladder: control.dada_quant(ladder.num_parameters)),
    "water-filling": Method(
        lambda ladder: water_filled(ladder, kappa=KAPPA, least_share=LEAST_SHARE)
    ),
    "hardware-aware": Method(
        lambda ladder: hardware_aware(ladder, kappa=KAPPA, least_share=LEAST_SHARE)
    ),
    **{f"everyone-{name}": _everyone(name) for name in ("0.0625", "0.25", "1", "4")},
    "first-6of10": Method(
        lambda ladder: first_arrivals(ladder, share=LEAST_SHARE),
        report_share=LEAST_SHARE,
    ),
    "l-greco": Method(
        lambda ladder: control.l_greco(ladder, bits_per_coordinate=1.0), per_leaf=True
    ),
}
OF_LADDER = tuple(name for name, one in METHODS.items() if one.rung in (None, *LADDER))
"""The methods of the command without flags."""

FIXED = tuple(name for name in METHODS if name.startswith("fixed-"))
OVER_SELECTED = tuple(name for name in FIXED if name.endswith("of10"))
OURS = ("water-filling", "hardware-aware")
EVERYONE = tuple(name for name in METHODS if name.startswith("everyone-"))
