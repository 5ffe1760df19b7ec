"""Seconds to a loss on a link: exact bytes over its rate, and FLOPs over a speed.

A worker trains, then sends, then receives; all workers do so at once. With `S` local
steps a round of `F` FLOPs each, a round in which one worker transfers `b` bytes takes

    S F / speed + max(0, 8 b / rate - hidden F / speed)

where `hidden` is the number of steps that run while a message is under way. FLOPs are
XLA's count of the loss-gradient; latency and the time of compressors are left out.
"""

from collections.abc import Sequence
from typing import NamedTuple

from fedjax_comp.report.rows import Row


class Costs(NamedTuple):
    """What one worker of a run computes and sends.

    Attributes:
      workers: how many share the totals of a row.
      local_steps: `S`.
      step_flops: of one worker's step.
      warm_flops: before the first round, by the worker that takes longest.
      warm_bytes: of one worker, before the first round.
      hidden_steps: local steps in which a message is under way.
    """

    workers: int
    local_steps: int
    step_flops: float
    warm_flops: float
    warm_bytes: int
    hidden_steps: int

    def bytes_at(self, row: Row) -> float:
        """What one worker has sent and received by an evaluation, warm start included.

        >>> row = {"uplink_bytes": 60, "downlink_bytes": 20}
        >>> Costs(4, 1, 1.0, 0.0, 100, 0).bytes_at(row)
        120.0
        """
        return self.warm_bytes + self._later(row)

    def bytes_a_round(self, row: Row) -> float:
        """What one worker has sent and received in each round up to an evaluation.

        >>> row = {"round": 5, "uplink_bytes": 60, "downlink_bytes": 20}
        >>> Costs(4, 1, 1.0, 0.0, 100, 0).bytes_a_round(row)
        4.0
        """
        rounds = row["round"]
        assert isinstance(rounds, int)
        return self._later(row) / rounds

    def _later(self, row: Row) -> float:
        up, down = (row[f"{way}_bytes"] for way in ("uplink", "downlink"))
        assert isinstance(up, int)
        assert isinstance(down, int)
        return (up + down) / self.workers

    def seconds_at(self, row: Row, megabits: float, speed: float) -> float:
        """The time of an evaluation.

        Args:
          row: the evaluation.
          megabits: of the link, each way, Mbit/s.
          speed: FLOP/s.

        >>> row = {"round": 10, "uplink_bytes": 10**6, "downlink_bytes": 0}
        >>> Costs(1, 2, 5.0, 0.0, 0, 0).seconds_at(row, megabits=8.0, speed=100.0)
        2.0
        """
        rounds = row["round"]
        assert isinstance(rounds, int)
        step = self.step_flops / speed
        sending = 8 * (self.bytes_at(row) - self.warm_bytes) / (megabits * 1e6)
        hidden = rounds * self.hidden_steps * step
        warm = self.warm_flops / speed + 8 * self.warm_bytes / (megabits * 1e6)
        return warm + rounds * self.local_steps * step + max(0.0, sending - hidden)

    def told(self, rows: Sequence[Row]) -> list[Row]:
        """The rows with one worker's bytes in them."""
        return [{**row, "worker_bytes": self.bytes_at(row)} for row in rows]


def seconds_to(
    loss: float, rows: Sequence[Row], costs: Costs, megabits: float, speed: float
) -> float | None:
    """When an evaluation first was at a loss or below; None for never.

    >>> rows = [
    ...     {"round": r, "test_loss": 3 - r, "uplink_bytes": 0, "downlink_bytes": 0}
    ...     for r in (1, 2)
    ... ]
    >>> seconds_to(1.0, rows, Costs(1, 1, 10.0, 0.0, 0, 0), megabits=1.0, speed=1.0)
    20.0
    """
    for row in rows:
        at = row["test_loss"]
        if isinstance(at, float | int) and at <= loss:
            return costs.seconds_at(row, megabits, speed)
    return None
