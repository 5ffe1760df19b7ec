"""What figures and events are made from."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

Row = Mapping[str, object]
"""One row of `metrics.jsonl`."""


class Run(NamedTuple):
    """A run to be shown.

    Attributes:
      name: what stands beside its curve.
      rows: its rows of `metrics.jsonl`, in order; means where it is several seeds'.
      spread: their standard deviations, row by row, which are drawn as a band; or none.
    """

    name: str
    rows: Sequence[Row]
    spread: Sequence[Row] = ()
