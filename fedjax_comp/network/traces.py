"""What a link can carry over time, and when a number of bits has passed.

A trace repeats for ever. One of rates is integrated exactly: its cumulative bits
`F(t)` are linear between its times, and bits sent from `t` on have passed at the first
`t'` with `F(t') - F(t) = bits`. One of packets has moments at which a packet can pass,
as in Mahimahi (Netravali et al., "Mahimahi: accurate record-and-replay for HTTP",
2015).
"""

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class RateTrace:
    """Cumulative bits of a link whose rate is constant between given times.

    Attributes:
      seconds: float64 `[m + 1]`, ascending from 0; the last is the period.
      bits: float64 `[m + 1]`, from 0, not descending: passed up to each time.
    """

    seconds: np.ndarray
    bits: np.ndarray


@dataclasses.dataclass(frozen=True)
class PacketTrace:
    """Moments at which one packet each can pass.

    Attributes:
      seconds: float64 `[m]`, not descending, in (0, period].
      period: seconds after which they repeat.
      packet_bytes: the most bytes of a packet, headers included.
    """

    seconds: np.ndarray
    period: float
    packet_bytes: int = 1500


Trace = RateTrace | PacketTrace


def rate_trace(durations: np.ndarray, bits_per_second: np.ndarray) -> RateTrace:
    """A trace of rates, each holding for its duration.

    Args:
      durations: seconds `[m]`, positive.
      bits_per_second: `[m]`, not negative and not all zero.

    Raises:
      ValueError: for anything else.

    >>> rate_trace(np.array([1.0, 2.0]), np.array([8.0, 0.5])).bits.tolist()
    [0.0, 8.0, 9.0]
    """
    durations = np.asarray(durations, np.float64)
    rates = np.asarray(bits_per_second, np.float64)
    if durations.shape != rates.shape or durations.ndim != 1 or durations.size == 0:
        raise ValueError(
            f"Expected durations {durations.shape} and rates {rates.shape} of one "
            "length >= 1."
        )
    if not (np.all(durations > 0) and np.all(np.isfinite(durations))):
        raise ValueError("Expected every duration of a trace positive and finite.")
    if not (np.all(rates >= 0) and np.all(np.isfinite(rates)) and np.any(rates > 0)):
        raise ValueError("Expected rates of a trace >= 0, finite and not all zero.")
    with np.errstate(over="ignore"):
        seconds, bits = np.cumsum(durations), np.cumsum(durations * rates)
    if not (np.isfinite(seconds[-1]) and 0 < bits[-1] < np.inf):
        raise ValueError(
            f"Expected a trace to last and to carry finite amounts above 0, got "
            f"{seconds[-1]} s and {bits[-1]} bits."
        )
    return RateTrace(np.concatenate([[0.0], seconds]), np.concatenate([[0.0], bits]))


def packet_trace(seconds: np.ndarray) -> PacketTrace:
    """A trace of packet opportunities; its period ends with the last of them.

    Args:
      seconds: `[m]`, finite and not descending, the last positive.

    Raises:
      ValueError: for anything else.
    """
    times = np.asarray(seconds, np.float64)
    if times.ndim != 1 or times.size == 0 or not np.all(np.isfinite(times)):
        raise ValueError("Expected packet opportunities at finite times.")
    if np.any(np.diff(times) < 0):
        raise ValueError("Expected packet opportunities in ascending order.")
    if times[0] < 0 or times[-1] <= 0:
        raise ValueError(f"Expected packet opportunities up to {times[-1]} > 0.")
    # An opportunity at 0 is that at the end of the period before.
    return PacketTrace(np.maximum(times, np.nextafter(0, 1)), times[-1])


def transfer_end(trace: Trace, start: float, packet_bytes: np.ndarray) -> float:
    """When packets sent back to back from `start` on have all passed.

    Args:
      trace: of the link.
      start: seconds, not negative.
      packet_bytes: size of each packet, headers included, `[p]`.

    >>> trace = rate_trace(np.array([1.0, 1.0]), np.array([80.0, 0.0]))
    >>> transfer_end(trace, 0.5, np.array([5, 5]))
    2.5
    """
    if packet_bytes.size == 0:
        return start
    if isinstance(trace, PacketTrace):
        return _last_opportunity(trace, start, packet_bytes.size)
    return _bits_passed(trace, start, 8.0 * float(packet_bytes.sum()))


def _bits_passed(trace: RateTrace, start: float, bits: float) -> float:
    period, total = trace.seconds[-1], trace.bits[-1]
    periods = math.floor(start / period)
    already = float(np.interp(start - periods * period, trace.seconds, trace.bits))
    target = already + bits
    # In (0, total]: bits that end with a period end before whatever pause begins it.
    whole = math.ceil(target / total) - 1
    rest = target - whole * total
    # Where the quotient was rounded it is not, and a pause would be divided by.
    if rest <= 0:
        whole, rest = whole - 1, rest + total
    i = int(np.searchsorted(trace.bits, min(rest, total), side="left"))
    share = (rest - trace.bits[i - 1]) / (trace.bits[i] - trace.bits[i - 1])
    within = trace.seconds[i - 1] + share * (trace.seconds[i] - trace.seconds[i - 1])
    return max(start, float((periods + whole) * period + within))


def _last_opportunity(trace: PacketTrace, start: float, packets: int) -> float:
    periods = math.floor(start / trace.period)
    first = int(
        np.searchsorted(trace.seconds, start - periods * trace.period, side="right")
    )
    whole, place = divmod(first + packets - 1, trace.seconds.size)
    return float((periods + whole) * trace.period + trace.seconds[place])


def mean_rate(trace: Trace) -> float:
    """Bits a second over a whole period.

    >>> mean_rate(rate_trace(np.array([1.0, 3.0]), np.array([8.0, 0.0])))
    2.0
    """
    if isinstance(trace, PacketTrace):
        return 8.0 * trace.packet_bytes * trace.seconds.size / trace.period
    return float(trace.bits[-1] / trace.seconds[-1])


def scaled(trace: Trace, factor: float) -> Trace:
    """The trace with every rate times `factor`; packets come that much more often."""
    if isinstance(trace, PacketTrace):
        return PacketTrace(
            trace.seconds / factor, trace.period / factor, trace.packet_bytes
        )
    return RateTrace(trace.seconds, trace.bits * factor)


def rotated(trace: Trace, seconds: float) -> Trace:
    """The trace as seen from `seconds` after its beginning.

    >>> trace = rate_trace(np.array([1.0, 2.0]), np.array([8.0, 0.5]))
    >>> rotated(trace, 2.0).seconds.tolist(), rotated(trace, 2.0).bits.tolist()
    ([0.0, 1.0, 2.0, 3.0], [0.0, 0.5, 8.5, 9.0])
    """
    if isinstance(trace, PacketTrace):
        shift = seconds % trace.period
        moved = np.sort((trace.seconds - shift) % trace.period)
        moved = np.where(moved == 0, trace.period, moved)
        return PacketTrace(np.sort(moved), trace.period, trace.packet_bytes)
    period, total = trace.seconds[-1], trace.bits[-1]
    shift = seconds % period
    before = float(np.interp(shift, trace.seconds, trace.bits))
    later = trace.seconds > shift
    earlier = (trace.seconds > 0) & (trace.seconds < shift)
    times = np.concatenate(
        [
            [0.0],
            trace.seconds[later] - shift,
            trace.seconds[earlier] + period - shift,
            [period],
        ]
    )
    bits = np.concatenate(
        [
            [0.0],
            trace.bits[later] - before,
            trace.bits[earlier] + total - before,
            [total],
        ]
    )
    keep = np.concatenate([[True], np.diff(times) > 0])
    return RateTrace(times[keep], bits[keep])
