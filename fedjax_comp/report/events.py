"""TensorBoard event files, written by tensorboardX (no TensorFlow)."""

import time
from collections.abc import Sequence
from pathlib import Path

from tensorboardX import SummaryWriter

from fedjax_comp.report.plots import Row


def write_events(
    directory: Path | str,
    rows: Sequence[Row],
    *,
    step: str = "round",
    started_at: float | None = None,
) -> Path:
    """Writes every number of every row as a scalar named after its column.

    The file replaces event files already in the directory, so a run that is resumed
    and written again shows each step once. TensorBoard keeps scalars in float32: exact
    byte counts are in `metrics.jsonl`.

    Args:
      directory: the folder of the events; made when missing.
      rows: rows of `metrics.jsonl`. What is not a number is left out.
      step: the column that numbers the steps; rows without it are left out.
      started_at: when the run started, in seconds since 1970, which with the column
        `seconds` gives each scalar its time. None lets the last row be now.

    Returns:
      The file written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_events(folder, [{"round": 1, "test_accuracy": 0.5}])
    ...     path.name.startswith("events.out.tfevents")
    True
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    before = set(directory.glob("events.out.tfevents.*"))
    times = [_seconds(row) for row in rows]
    if started_at is None:
        started_at = time.time() - (times[-1] if times else 0.0)

    # Two writers of one second would share a file name, and so one file.
    count = 1 + max((int(p.suffix[4:]) for p in before if _is_ours(p)), default=-1)
    writer = SummaryWriter(str(directory), filename_suffix=f".run{count}")
    try:
        for row, seconds in zip(rows, times, strict=True):
            number = row.get(step)
            if not isinstance(number, int):
                continue
            for name, value in row.items():
                if name == step or isinstance(value, bool):
                    continue
                if isinstance(value, int | float):
                    writer.add_scalar(name, value, number, started_at + seconds)
    finally:
        writer.close()
    (written,) = set(directory.glob(f"events.out.tfevents.*.run{count}"))
    for path in before:
        path.unlink(missing_ok=True)
    return written


def _seconds(row: Row) -> float:
    seconds = row.get("seconds")
    return float(seconds) if isinstance(seconds, int | float) else 0.0


def _is_ours(path: Path) -> bool:
    return path.suffix.startswith(".run") and path.suffix[4:].isdigit()
