"""Devices: seconds and joules of training, encoding and decoding.

Time follows a roofline (Williams, Waterman and Patterson, "Roofline", 2009):

    t = max(FLOPs / F, bytes / BW).

A phone's `F` is in proportion to its floating-point CPU score in the AI Benchmark
(Ignatov et al., 2019), as listed by FLASH (Yang et al., 2021), and its `BW` to the
square root of that score, since memory differs less between phones than processors do.
The speed of the reference phone, the other tiers and all powers are round figures, not
measurements: compare settings on one fleet with each other, but do not take its seconds
for those of real devices.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from fedjax_comp import checks, strict_json
from fedjax_comp.wording import one_line

PHONE_TABLE = "traces/devices/raw_ai_benchmark_list.json"
REFERENCE_PHONE = "Google Pixel 4"
SCORE = "CPU_F_AI_Score"
OLDEST_YEAR = 2016
"""The table ends in 2019; phones more than three years older are not taken."""


@dataclasses.dataclass(frozen=True)
class Device:
    """What a device reaches in small dense programs, not its peak.

    Attributes:
      name: of the device.
      flops_per_second: floating-point operations.
      bytes_per_second: of memory traffic.
      compute_watts: while it computes, above idle.
      transmit_watts: while it sends.
      receive_watts: while it receives.
    """

    name: str
    flops_per_second: float
    bytes_per_second: float
    compute_watts: float
    transmit_watts: float = 0.0
    receive_watts: float = 0.0


SERVER = Device("server", 1e12, 100e9, 200.0)
LAPTOP = Device("laptop", 50e9, 20e9, 25.0, 1.5, 1.0)
PHONE = Device("phone", 10e9, 8e9, 4.0, 1.2, 0.8)
"""The reference phone; radio powers are of the order measured for 3G by Balasubramanian
et al., "Energy consumption in mobile phones", 2009."""

TIERS = {device.name: device for device in (SERVER, LAPTOP, PHONE)}

Fleet = Callable[[int, int, Path | None], Sequence[Device]]
"""`(num_clients, seed, raw_dir) -> devices[K]`."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a program does, whatever it runs on.

    Attributes:
      flops: floating-point operations.
      bytes: read and written.
      factor: how many times longer than its roofline it took where it was measured;
        loops whose length the analysis does not see, sorting and random numbers are
        in it.
    """

    flops: float
    bytes: float
    factor: float = 1.0


NOTHING = Cost(0.0, 0.0)


def roofline_seconds(cost: Cost, device: Device) -> float:
    """`factor * max(FLOPs / F, bytes / BW)`.

    >>> roofline_seconds(Cost(1e9, 1.6e9, factor=2.0), PHONE)
    0.4
    """
    return cost.factor * max(
        cost.flops / device.flops_per_second, cost.bytes / device.bytes_per_second
    )


def calibrated(flops: float, bytes_: float, seconds: float, device: Device) -> Cost:
    """The cost of a program that took so long on a device.

    A program that costs nothing by analysis is given the bytes that fit in its time.

    Args:
      flops: by analysis (`jax.stages.Compiled.cost_analysis`).
      bytes_: likewise.
      seconds: measured.
      device: where, with what it was measured to reach.

    >>> calibrated(1e9, 1.6e9, 0.4, PHONE).factor
    2.0
    """
    ideal = roofline_seconds(Cost(flops, bytes_), device)
    if ideal <= 0:
        return Cost(0.0, seconds * device.bytes_per_second)
    return Cost(flops, bytes_, seconds / ideal)


def training_flops(
    num_parameters: int, examples: float, *, flops_per_example: float | None = None
) -> float:
    """FLOPs of so many examples forward and backward.

    Args:
      num_parameters: `n`.
      examples: counting epochs.
      flops_per_example: where it is known (`training_cost.gradient_flops`); else the
        rule of thumb `6 n`, two for a multiplication and its addition, once forward and
        twice backward: a little much for dense layers, and too little wherever weights
        are used more than once, as in convolutions.

    >>> training_flops(1000, 10)
    60000.0
    """
    each = 6.0 * num_parameters if flops_per_example is None else flops_per_example
    return each * examples


def same(tier: str = "phone") -> Fleet:
    """Every client has the same device.

    Args:
      tier: server, laptop or phone.

    Raises:
      ValueError: for any other.

    >>> [device.name for device in same("laptop")(2, 0, None)]
    ['laptop', 'laptop']
    """
    device = _tier(tier)
    return lambda num_clients, seed, raw_dir: [device] * num_clients


def phones(path: str = PHONE_TABLE) -> Fleet:
    """Phones drawn from the public table, those since 2016.

    Args:
      path: of the table; a relative one lies below the raw data directory.
    """

    def fleet(num_clients: int, seed: int, raw_dir: Path | None) -> Sequence[Device]:
        table = read_phones(Path(path) if raw_dir is None else raw_dir / path)
        random = np.random.default_rng([seed, 5])
        return [table[i] for i in random.integers(len(table), size=num_clients)]

    return fleet


def mixed(
    *, server: float = 0.0, laptop: float = 0.3, phone: float = 0.7, table: str = ""
) -> Fleet:
    """A fleet of several tiers.

    Args:
      server: share of the clients, in proportion to the other shares.
      laptop: likewise.
      phone: likewise.
      table: where the phones come from, as in `phones`; empty for reference phones
        that differ in speed by a lognormal factor with the deviation of the table.

    Raises:
      ValueError: for shares that are negative or all zero.

    >>> sorted({d.name for d in mixed(laptop=1, phone=0)(5, 0, None)})
    ['laptop']
    """
    shares = {"server": server, "laptop": laptop, "phone": phone}
    for name, share in shares.items():
        checks.not_negative(name, share)
    total = sum(shares.values())
    if total == 0:
        raise ValueError("Expected a share above 0 in mixed().")

    def fleet(num_clients: int, seed: int, raw_dir: Path | None) -> Sequence[Device]:
        random = np.random.default_rng([seed, 6])
        names = random.choice(
            list(shares), size=num_clients, p=[s / total for s in shares.values()]
        )
        drawn = phones(table)(num_clients, seed, raw_dir) if table else None
        made = []
        for k, name in enumerate(names):
            if name != "phone":
                made.append(TIERS[name])
            elif drawn is not None:
                made.append(drawn[k])
            else:
                speed = float(np.exp(SPEED_DEVIATION * random.normal()))
                made.append(_faster(PHONE, f"phone x{speed:.2f}", speed))
        return made

    return fleet


SPEED_DEVIATION = 0.6
"""Of the log score over the table's phones since 2016, to one digit."""


def read_phones(path: Path) -> list[Device]:
    """The table's phones since 2016, each once.

    Raises:
      ValueError: when there is no such table, it cannot be read, or the reference phone
        is not in it.
    """
    if not path.is_file():
        raise ValueError(
            f"There is no phone table {path}: use same('phone') or mixed(), which "
            "need none."
        )
    rows = _rows(path)
    scores = {row["Model"].strip(): _number(row[SCORE]) for row in rows}
    if not scores.get(REFERENCE_PHONE):
        raise ValueError(f"Expected {REFERENCE_PHONE!r} with a score in {path}.")
    reference = scores[REFERENCE_PHONE]
    recent = {r["Model"].strip() for r in rows if _number(r["Year"]) >= OLDEST_YEAR}
    return [
        _faster(PHONE, name, score / reference)
        for name, score in scores.items()
        if name in recent and score > 0
    ]


def _faster(device: Device, name: str, speed: float) -> Device:
    return dataclasses.replace(
        device,
        name=name,
        flops_per_second=device.flops_per_second * speed,
        bytes_per_second=device.bytes_per_second * speed**0.5,
    )


def _tier(name: str) -> Device:
    if name not in TIERS:
        raise ValueError(f"Expected tier={name!r}, one of {', '.join(TIERS)}.")
    return TIERS[name]


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        rows = strict_json.parse(path.read_bytes())
        if not isinstance(rows, list):
            raise ValueError("Expected a list of phones.")
        for row in rows:
            strict_json.check_fields(row, {"Model": str, SCORE: str, "Year": str})
    except (OSError, ValueError) as error:
        raise ValueError(
            f"Expected a phone table in {path}: {one_line(error)}."
        ) from error
    return rows


def _number(text: str) -> float:
    """The first number in a text; 0 where there is none that is finite."""
    found = re.search(r"\d+(\.\d*)?", text)
    number = float(found.group()) if found else 0.0
    return number if math.isfinite(number) else 0.0
