"""TensorBoard event files, written by tensorboardX (no TensorFlow)."""

import time
from collections.abc import Sequence
from pathlib import Path

from fedjax_comp.extras import needs
from fedjax_comp.report.rows import Row


class Events:
    """An event file that grows by a row at a time; use as a context manager.

    Every number of a row is a scalar named after its column. Event files already in the
    directory are replaced, so a run that is resumed shows each step once. TensorBoard
    keeps scalars in float32: exact byte counts are in `metrics.jsonl`.

    Args:
      directory: the folder of the events; made when missing.
      rows: of `metrics.jsonl`, to begin with; rows without a round are left out, and so
        is what is not a number. The last is taken to be of now, and every row lies as
        far from it as their `seconds` do.

    Attributes:
      path: of the file.

    Raises:
      MissingExtra: without tensorboardX, of the extra `report`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with Events(folder, [{"round": 1, "test_accuracy": 0.5}]) as events:
    ...         events.path.name.startswith("events.out.tfevents")
    True
    """

    def __init__(
        self,
        directory: Path | str,
        rows: Sequence[Row] = (),
    ) -> None:
        with needs("report", "TensorBoard events"):
            from tensorboardX import SummaryWriter
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        before = set(directory.glob("events.out.tfevents.*"))
        self._started_at = time.time() - (_seconds(rows[-1]) if rows else 0.0)
        # Two writers of one second would share a file name, and so one file.
        count = 1 + max((int(p.suffix[4:]) for p in before if _is_ours(p)), default=-1)
        self._writer = SummaryWriter(str(directory), filename_suffix=f".run{count}")
        for row in rows:
            self.append(row)
        self._writer.flush()
        (self.path,) = directory.glob(f"events.out.tfevents.*.run{count}")
        for path in before:
            path.unlink(missing_ok=True)

    def __enter__(self) -> "Events":
        return self

    def __exit__(self, *exception: object) -> None:
        self._writer.close()

    def append(self, row: Row) -> None:
        """Adds the scalars of one row."""
        number = row.get("round")
        if not isinstance(number, int):
            return
        at = self._started_at + _seconds(row)
        for name, value in row.items():
            if name == "round" or isinstance(value, bool):
                continue
            if isinstance(value, int | float):
                self._writer.add_scalar(name, value, number, at)

    def flush(self) -> None:
        """Lets readers see all rows so far."""
        self._writer.flush()


def _seconds(row: Row) -> float:
    seconds = row.get("seconds")
    return float(seconds) if isinstance(seconds, int | float) else 0.0


def _is_ours(path: Path) -> bool:
    return path.suffix.startswith(".run") and path.suffix[4:].isdigit()
