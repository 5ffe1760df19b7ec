"""The ledger: exact totals of a run, as Python ints, and a row for every evaluation."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal, NotRequired, TypedDict

import jax
import numpy as np

from fedjax_comp.training import Dispatch
from fedjax_comp.wire.message import HEADER_BYTES
from fedjax_comp.wire.traffic import totals


class Row(TypedDict):
    """One line of `metrics.jsonl`; totals count from the start of the run.

    A number that is not finite is None, and so is the loss when nobody trained.
    """

    round: int
    test_accuracy: float
    test_loss: float | None
    test_others: NotRequired[dict[str, float | None]]
    train_loss: float | None
    uplink_bytes: int
    downlink_bytes: int
    seconds: float
    simulated_seconds: NotRequired[float]
    joules: NotRequired[float]
    observed: NotRequired[dict[str, float | None]]


@dataclasses.dataclass
class Ledger:
    """Totals of everything that was sent and done, on the host.

    Bytes are those of the messages' bodies, each rounded up to whole bytes as it is on
    the wire; the frame around each message is counted apart in `overhead_bytes`.

    Attributes:
      rounds: rounds done.
      uplink_bytes: bytes sent by clients, to whomever.
      downlink_bytes: bytes received by clients, from whomever.
      uplink_messages: messages sent by clients.
      downlink_messages: messages received by clients.
      client_steps: local optimizer steps.
      dropped: client updates left out of a sum because they were not finite.
      audited_messages: messages written to bytes and decoded from them.
      audit_failures: those that did not come back bit for bit.
      seconds: wall-clock seconds of training and evaluation, compilation apart.
      rows: a `Row` for each evaluation; an algorithm's own totals are in `observed`.
      losses: training losses of the rounds since the last row in which anyone trained.
      observed: each scalar in `RoundInfo.observed`: its sum over the rounds, its mean
        or its last value, as the algorithm says.
      simulated_seconds: time on simulated links and devices; None without any.
      joules: energy of the simulated devices; None without any.
      conditions: what a simulation must not forget between two rounds.
    """

    rounds: int = 0
    uplink_bytes: int = 0
    downlink_bytes: int = 0
    uplink_messages: int = 0
    downlink_messages: int = 0
    client_steps: int = 0
    dropped: int = 0
    audited_messages: int = 0
    audit_failures: int = 0
    seconds: float = 0.0
    rows: list[Row] = dataclasses.field(default_factory=list)
    losses: list[float] = dataclasses.field(default_factory=list)
    observed: dict[str, float] = dataclasses.field(default_factory=dict)
    simulated_seconds: float | None = None
    joules: float | None = None
    conditions: dict[str, object] = dataclasses.field(default_factory=dict)

    @property
    def overhead_bytes(self) -> int:
        """Bytes of the frames around all messages, both ways."""
        return HEADER_BYTES * (self.uplink_messages + self.downlink_messages)

    def record(self, dispatch: Dispatch) -> None:
        """Adds the rounds of a dispatch.

        Raises:
          ValueError: when it holds fewer records than rounds.
        """
        num_rounds = int(dispatch.num_rounds)
        held = dispatch.infos.train_loss.shape[0]
        if num_rounds > held:
            raise ValueError(
                f"Expected a record of each of the {num_rounds} rounds, got {held}: "
                "what the others sent is not known."
            )
        infos = jax.tree.map(lambda x: np.asarray(x)[:num_rounds], dispatch.infos)
        sent = totals(infos.traffic)
        self.uplink_bytes += sent.uplink_bytes
        self.downlink_bytes += sent.downlink_bytes
        self.uplink_messages += sent.uplink_messages
        self.downlink_messages += sent.downlink_messages
        self.client_steps += int(infos.client_steps.sum(dtype=np.int64))
        self.dropped += int(infos.dropped.sum(dtype=np.int64))
        # A round in which nobody trained has no loss, and counts in no mean.
        self.losses += [float(x) for x in infos.train_loss if not np.isnan(x)]
        for i in range(num_rounds):
            self.rounds += 1
            for name, one in infos.observed.items():
                if one.value.ndim == 1:
                    self.observe(name, float(one.value[i]), one.over_rounds)

    def observe(
        self,
        name: str,
        value: float,
        over_rounds: Literal["sum", "mean", "last"] = "sum",
    ) -> None:
        """Adds the observation of the last round, round by round.

        Args:
          name: what was observed.
          value: of the round that was recorded last.
          over_rounds: as in `fedjax_comp.base.Observed`.
        """
        before = self.observed.get(name, 0.0)
        if over_rounds == "sum":
            value += before
        elif over_rounds == "mean":
            value = before + (value - before) / self.rounds
        self.observed[name] = value

    def add_row(
        self,
        *,
        test_accuracy: float,
        test_loss: float,
        others: Mapping[str, float] = MappingProxyType({}),
    ) -> Row:
        """Closes the rounds since the last row with an evaluation.

        Args:
          test_accuracy: share of predictions that are right.
          test_loss: their mean loss.
          others: means of the task's own sums, by name.
        """
        train_loss = float(np.mean(self.losses)) if self.losses else math.nan
        row = Row(
            round=self.rounds,
            test_accuracy=test_accuracy,
            test_loss=_known(test_loss),
            train_loss=_known(train_loss),
            uplink_bytes=self.uplink_bytes,
            downlink_bytes=self.downlink_bytes,
            seconds=round(self.seconds, 3),
        )
        if others:
            row["test_others"] = {name: _known(x) for name, x in others.items()}
        if self.simulated_seconds is not None and self.joules is not None:
            row["simulated_seconds"] = self.simulated_seconds
            row["joules"] = self.joules
        if self.observed:
            row["observed"] = {n: _known(x) for n, x in self.observed.items()}
        self.losses = []
        self.rows.append(row)
        return row


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def as_written(share: jax.typing.ArrayLike) -> float:
    """A share as the shortest decimal that its floating-point number is written as.

    342 of 360 is 0.95, but the nearest float32 is below 0.95: compared in double
    precision, a target that was just reached would be missed.

    >>> import numpy as np
    >>> float(np.float32(342 / 360)) >= 0.95, as_written(np.float32(342 / 360)) >= 0.95
    (False, True)
    """
    return float(str(np.asarray(share)[()]))


def first_at_target(rows: Sequence[Row], target: float | None) -> Row | None:
    """The first evaluation that reaches a target: what "to target" means everywhere.

    Args:
      rows: evaluations in order.
      target: a test accuracy; None for no target.

    Returns:
      The row, or None where the target was not reached or there is none.

    >>> first_at_target([{"round": 3, "test_accuracy": 0.9}], 0.9)["round"]
    3
    """
    if target is None:
        return None
    return next((row for row in rows if row["test_accuracy"] >= target), None)


def to_target(rows: Sequence[Row], target: float | None) -> dict[str, float | None]:
    """What it cost to reach a target: totals at the first evaluation that does.

    Args:
      rows: evaluations in order.
      target: a test accuracy; None for no target.

    Returns:
      `rounds_to_target`, `uplink_bytes_to_target`, `downlink_bytes_to_target`,
      `total_bytes_to_target`, `simulated_seconds_to_target` and `joules_to_target`:
      None where the target was not reached, or nothing was simulated.

    >>> row = {"round": 3, "test_accuracy": 0.9, "uplink_bytes": 5, "downlink_bytes": 7}
    >>> found = to_target([row], 0.9)
    >>> found["rounds_to_target"], found["total_bytes_to_target"]
    (3, 12)
    """
    found = {f"{name}_to_target": None for name in TO_TARGET}
    first = first_at_target(rows, target)
    if first is None:
        return dict(found)
    up, down = first["uplink_bytes"], first["downlink_bytes"]
    return {
        "rounds_to_target": first["round"],
        "uplink_bytes_to_target": up,
        "downlink_bytes_to_target": down,
        "total_bytes_to_target": up + down,
        "simulated_seconds_to_target": first.get("simulated_seconds"),
        "joules_to_target": first.get("joules"),
    }


TO_TARGET = (
    "rounds",
    "uplink_bytes",
    "downlink_bytes",
    "total_bytes",
    "simulated_seconds",
    "joules",
)
"""What `to_target` tells, each with `_to_target` behind it."""


def interpolated_rounds_to_target(rows: list[Row], target: float) -> float | None:
    """Rounds to a target accuracy: best so far, crossings interpolated linearly.

    Args:
      rows: evaluations in order.
      target: the test accuracy to reach.

    Returns:
      The interpolated round, or None when it was not reached (McMahan et al. 2017,
      section 3, measure rounds this way).

    >>> rows = [{"round": 0, "test_accuracy": 0.1}, {"round": 10, "test_accuracy": 0.9}]
    >>> interpolated_rounds_to_target(rows, 0.5)
    5.0
    """
    best, last_round = None, 0
    for row in rows:
        accuracy = row["test_accuracy"]
        if accuracy >= target:
            if best is None:
                return float(row["round"])
            share = (target - best) / (accuracy - best)
            return last_round + share * (row["round"] - last_round)
        best = accuracy if best is None else max(best, accuracy)
        last_round = row["round"]
    return None
