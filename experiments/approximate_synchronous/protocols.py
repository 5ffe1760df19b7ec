"""The protocols that are compared, as expressions of `--protocol`.

--protocol='NAME: gaia(0.01, delay=1)'
--protocol='NAME: synchronous() | shards(2)'

After the bar stands the partition, where it differs from `--partition`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import optax

from fedjax_comp.algorithms.approximate_synchronous import (
    approximate_synchronous,
    inverse_root,
)
from fedjax_comp.algorithms.fed_avg import fed_avg as federated_averaging
from fedjax_comp.algorithms.links.significance import (
    Select,
    relative,
    significant_link,
)
from fedjax_comp.algorithms.links.significance import largest as largest_coordinates
from fedjax_comp.base import Algorithm, Compressor, Execution, Task
from fedjax_comp.compress import error_feedback, flattened, identity
from fedjax_comp.compress import top_k as keep_top_k
from fedjax_comp.experiment.expressions import build
from fedjax_comp.experiment.pipelines import parse_named
from fedjax_comp.expression import parse
from fedjax_comp.network.region_clock import (
    Phases,
    broadcast,
    overlay,
    sharded,
)
from fedjax_comp.network.regions import hubs_of

MakeAlgorithm = Callable[
    [Task, int, optax.GradientTransformation, Execution, bool], Algorithm
]
"""`(task, K, optimizer, execution, keep_messages) -> Algorithm`."""


class Rule(NamedTuple):
    """What a protocol does.

    Attributes:
      family: what joins its point with others in a figure.
      make: its algorithm.
      links: kind of message to its compressor.
      steps: local updates in a round.
      delay: rounds that messages may be late.
      phases: `(K) -> Phases`, how messages get to the other centres.
      replicas: whether centres have models of their own.
    """

    family: str
    make: MakeAlgorithm
    links: Mapping[str, Compressor]
    steps: int
    delay: int
    phases: Callable[[int], Phases]
    replicas: bool


class Variant(NamedTuple):
    """A named protocol with its partition: the flags of its own run."""

    name: str
    protocol: str
    partition: str


def gaia(
    threshold: float,
    *,
    delay: int = 2,
    barrier_kilobytes: float = math.inf,
    hubs: bool = False,
    steps: int = 1,
) -> Rule:
    """Approximate synchronous parallel with the threshold `T_0 / sqrt(t)`.

    `delay` rounds of a message may pass before it is waited for; one longer than
    `barrier_kilobytes` is waited for at once; with `hubs` messages go by the overlay.
    """
    select = relative(inverse_root(threshold))
    return _replicated("gaia", select, delay, barrier_kilobytes, hubs, steps)


def largest(
    fraction: float,
    *,
    delay: int = 2,
    barrier_kilobytes: float = math.inf,
    hubs: bool = False,
    steps: int = 1,
) -> Rule:
    """The same protocol with the largest coordinates in place of the significant ones.

    Top-k with error feedback that waits as `gaia` does, by the same messages.
    """
    select = largest_coordinates(fraction)
    return _replicated("top-k", select, delay, barrier_kilobytes, hubs, steps)


def _replicated(
    family: str,
    select: Select,
    delay: int,
    barrier_kilobytes: float,
    hubs: bool,
    steps: int,
) -> Rule:
    def make(
        task: Task,
        num_centres: int,
        optimizer: optax.GradientTransformation,
        execution: Execution,
        keep_messages: bool,
    ) -> Algorithm:
        return approximate_synchronous(
            task,
            num_centres=num_centres,
            optimizer=optimizer,
            select=select,
            delay=delay,
            barrier_bits=8e3 * barrier_kilobytes,
            execution=execution,
            keep_messages=keep_messages,
        )

    if delay < 0:
        raise ValueError(f"Expected delay={delay} >= 0.")
    if not barrier_kilobytes >= 0:
        raise ValueError(f"Expected barrier_kilobytes={barrier_kilobytes} >= 0.")
    return Rule(
        family,
        make,
        {"updates": significant_link()},
        _positive(steps),
        delay,
        (lambda n: overlay(hubs_of(n))) if hubs else broadcast,
        replicas=True,
    )


def _averaging(uplink: Compressor) -> MakeAlgorithm:
    def make(
        task: Task,
        num_centres: int,
        optimizer: optax.GradientTransformation,
        execution: Execution,
        keep_messages: bool,
    ) -> Algorithm:
        del num_centres
        return federated_averaging(
            task,
            client_optimizer=optimizer,
            uplink=uplink,
            execution=execution,
            keep_messages=keep_messages,
        )

    return make


def synchronous() -> Rule:
    """One batch of every centre, the sum of the gradients, and on."""
    return _averaged("synchronous", identity(), 1, sharded)


def fed_avg(steps: int) -> Rule:
    """Models averaged every so many local updates."""
    return _averaged("FedAvg", identity(), steps, sharded)


def top_k(fraction: float, *, steps: int = 1) -> Rule:
    """The largest coordinates of all updates, with error feedback; everyone waits."""
    uplink = error_feedback(flattened(keep_top_k(fraction)))
    return _averaged("top-k", uplink, steps, broadcast)


def _averaged(
    family: str, uplink: Compressor, steps: int, phases: Callable[[int], Phases]
) -> Rule:
    links = {"uplink": uplink, "downlink": identity()}
    make = _averaging(uplink)
    return Rule(family, make, links, _positive(steps), 0, phases, replicas=False)


RULES = {f.__name__: f for f in (gaia, largest, synchronous, fed_avg, top_k)}

FORM = "'NAME: PROTOCOL' or 'NAME: PROTOCOL | PARTITION', e.g. 'gaia-1: gaia(0.01)'"


def build_rule(text: str) -> Rule:
    """The rule that an expression describes; `ValueError` when it describes none."""
    made = parse(text, RULES, flag="protocol")
    if not isinstance(made, Rule):
        raise ValueError(f"--protocol={text} makes no protocol; e.g. gaia(0.01) does.")
    return made


def parse_variants(texts: Sequence[str], *, partition: str) -> list[Variant]:
    """All values of `--protocol`, each with a name of its own.

    Args:
      texts: the values.
      partition: for those that name none.

    Raises:
      ValueError: when one is not of that form, an expression is not valid, or two have
        the same name.

    >>> parse_variants(["a: fed_avg(8) | shards(2)"], partition="iid()")[0].partition
    'shards(2)'
    """
    variants = []
    for name, parts in parse_named("protocol", texts, FORM, counts=(1, 2)):
        protocol, own = [*parts, partition][:2]
        build_rule(protocol)
        build("partition", own)
        variants.append(Variant(name, protocol, own))
    return variants


def _positive(steps: int) -> int:
    if steps < 1:
        raise ValueError(f"Expected steps={steps} >= 1.")
    return steps
