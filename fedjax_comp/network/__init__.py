"""Time and energy: what messages cost on links and devices, and how to control it.

Host-side NumPy. Links and devices turn the exact bits of a round into seconds and
joules after the fact; controllers turn them into the next round's budgets, which are
traced arrays inside the compiled round.
"""

from fedjax_comp.network.by_label import by_label
from fedjax_comp.network.clock import Policy, close_round
from fedjax_comp.network.devices import Device, mixed, phones, same
from fedjax_comp.network.links import Channel, Link
from fedjax_comp.network.networks import (
    constant,
    intermittent,
    lognormal,
    markov,
    recorded,
)

__all__ = [
    "Channel",
    "Device",
    "Link",
    "Policy",
    "by_label",
    "close_round",
    "constant",
    "intermittent",
    "lognormal",
    "markov",
    "mixed",
    "phones",
    "recorded",
    "same",
]
