"""Checks of what an earlier process left in a run directory, before it is used."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedjax_comp import strict_json
from fedjax_comp.run_directory import Json, RunDirectory, RunDirectoryError
from fedjax_comp.strict_json import NUMBER, Shape
from fedjax_comp.wording import one_line

_KNOWN = (*NUMBER, type(None))
MEASURED: Mapping[str, Shape] = {
    "test_accuracy": NUMBER,
    "best_test_accuracy": NUMBER,
    "rounds": int,
    "uplink_bytes": int,
    "downlink_bytes": int,
    "dense_uplink_bytes": int,
    "seconds_total": NUMBER,
    "simulated_seconds": _KNOWN,
    "joules": _KNOWN,
    "runs": list,
    "claims": list,
}
"""What the summary of a single run is read for."""

COMPARED: Mapping[str, Shape] = {"runs": list, "claims": list}
"""What that of a comparison is read for."""

_RUN: Mapping[str, Shape] = {"name": str, "reason": str}
_CLAIM: Mapping[str, Shape] = {
    "name": str,
    "target": _KNOWN,
    "measured": _KNOWN,
    "holds": bool,
}
ROW: Mapping[str, Shape] = {
    "round": int,
    "test_accuracy": _KNOWN,
    "test_loss": _KNOWN,
    "train_loss": _KNOWN,
    "uplink_bytes": int,
    "downlink_bytes": int,
    "seconds": NUMBER,
}
"""What every row of `metrics.jsonl` has that `run` wrote."""


def check_finished(directory: RunDirectory, fields: Mapping[str, Shape]) -> Json:
    """The summary of a run that has ended.

    Args:
      directory: in which `finished` is set.
      fields: `MEASURED` or `COMPARED`.

    Returns:
      The summary.

    Raises:
      RunDirectoryError: when it lacks a field or has it in another type.
    """
    try:
        summary = strict_json.check_fields(directory.finished, fields)
        for run in summary["runs"]:
            strict_json.check_fields(run, _RUN)
        for claim in summary["claims"]:
            strict_json.check_fields(claim, _CLAIM)
        failures = summary.get("failures", [])
        if not (isinstance(failures, list) and all(map(_is_text, failures))):
            raise ValueError("Expected 'failures' to be a list of texts.")
    except ValueError as error:
        raise RunDirectoryError(
            f"{directory.path / 'summary.json'} is not a summary of this version: "
            f"{error} Delete it to run again what is missing."
        ) from error
    return summary


def read_lines(path: Path, fields: Mapping[str, Shape]) -> list[Any]:
    """The objects of a file with one a line; half a last line is left out.

    Args:
      path: of the file.
      fields: of each, as for `strict_json.check_fields`.

    Raises:
      RunDirectoryError: when it cannot be read or one of them lacks a field.
    """
    try:
        return strict_json.parse_lines(path.read_text(encoding="utf-8"), fields)
    except (OSError, ValueError) as error:
        raise RunDirectoryError(f"{path} cannot be read: {one_line(error)}.") from error


def _is_text(value: object) -> bool:
    return isinstance(value, str)
