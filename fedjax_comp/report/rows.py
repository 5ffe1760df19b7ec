"""What figures and events are made from."""

from collections.abc import Mapping

Row = Mapping[str, object]
"""One row of `metrics.jsonl`."""
