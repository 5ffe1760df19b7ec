"""Costs of a run's compressors, kept as JSON beside it: one clock after a restart.

What was measured on this machine before the run began is what a resumed run goes by,
on whatever machine it is resumed.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

from fedjax_comp import checks, strict_json
from fedjax_comp.base import Compressor, PyTree
from fedjax_comp.hooks import Hook, Live
from fedjax_comp.network.codec_cost import codec_cost, host_device
from fedjax_comp.network.curve import measure_curve
from fedjax_comp.network.devices import Cost
from fedjax_comp.network.setting import Codec
from fedjax_comp.run_directory import (
    Json,
    RunDirectoryError,
    read_json,
    write_json,
)
from fedjax_comp.strict_json import NUMBER, Shape
from fedjax_comp.training import TrainState
from fedjax_comp.wording import one_line

COSTS = "costs.json"
_COST: dict[str, Shape] = {"flops": NUMBER, "bytes": NUMBER, "factor": NUMBER}
_RUNG: dict[str, Shape] = {
    "bits": int,
    "error": NUMBER,
    "encode": dict,
    "decode": dict,
}


def read_or_measure(
    path: Path,
    links: Mapping[str, Compressor],
    like: PyTree,
    update: Callable[[], PyTree] | None = None,
) -> Json:
    """The costs of each link's compressor: read when there, else measured.

    Nothing is written: the hook `costs_kept` does that once the run has begun, so that
    a resumed run goes by the same clock.

    Args:
      path: of the file.
      links: by name.
      like: the model.
      update: gives what the curve of `links["uplink"]` is measured on; None for no
        curve.

    Returns:
      `{"host": {...}, "links": {name: [encode, decode]}}`, JSON-able, and with an
      update `"curve"`, the rungs of `measure_curve`.

    Raises:
      RunDirectoryError: for a file that cannot be read, is of another format or does
        not hold costs.
    """
    if path.is_file():
        return _read(path, curve=update is not None)
    host = host_device()
    measured: Json = {
        "host": dataclasses.asdict(host),
        "links": {
            name: [dataclasses.asdict(cost) for cost in codec_cost(link, like, host)]
            for name, link in links.items()
        },
    }
    if update is not None:
        measured["curve"] = measure_curve(links["uplink"], update(), host)
    return measured


def _read(path: Path, *, curve: bool) -> Json:
    expected: dict[str, Shape] = {"links": dict}
    if curve:
        expected["curve"] = list
    measured = read_json(path, expected)
    for name, costs in measured["links"].items():
        if not isinstance(costs, list) or len(costs) != 2:
            raise RunDirectoryError(f"Expected two costs of link {name} in {path}.")
        for cost in costs:
            check_cost(path, cost)
    for rung in measured["curve"] if curve else ():
        try:
            known = strict_json.check_fields(rung, _RUNG)
        except ValueError as error:
            raise RunDirectoryError(
                f"{path} does not hold a curve: {one_line(error)}."
            ) from error
        for name in ("encode", "decode"):
            check_cost(path, known[name])
    if curve and not measured["curve"]:
        raise RunDirectoryError(f"Expected a rung of the curve in {path}.")
    return measured


def check_cost(path: Path, value: object) -> None:
    """Refuses what is not a `Cost` as JSON, read from `path`.

    Raises:
      RunDirectoryError: for anything but three finite numbers of at least 0.
    """
    try:
        for name, number in strict_json.check_fields(value, _COST).items():
            if name not in _COST:
                raise ValueError(f"Expected {', '.join(_COST)}, got {name!r}.")
            checks.not_negative(name, number)
    except ValueError as error:
        raise RunDirectoryError(
            f"{path} does not hold the costs of compressors: {one_line(error)}."
        ) from error


def codecs_of(measured: Json) -> dict[str, Codec]:
    """The costs by link, from what `read_or_measure` returned."""
    return {
        name: Codec((Cost(**encode),), (Cost(**decode),))
        for name, (encode, decode) in measured["links"].items()
    }


def costs_kept(measured: Json) -> Hook:
    """Writes `costs.json` when a run begins that has none."""

    def begin(live: Live, state: TrainState) -> TrainState:
        path = live.directory.path / COSTS
        if not path.exists():
            write_json(path, measured)
        return state

    return Hook(begin=begin)
