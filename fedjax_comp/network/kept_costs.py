"""Costs of a run's compressors and training, kept as JSON beside it.

Costs are measured on this machine before a run begins. A resumed run uses the kept
numbers on whatever machine it is resumed, and so does any other run that is given the
file: these runs have one clock, and nothing is measured anew on a busy machine.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

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
TRAINING = "training_flops"
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
    *,
    training: Callable[[], float] | None = None,
    of: Mapping[str, str] = MappingProxyType({}),
    given: Path | None = None,
) -> Json:
    """The costs of a run: read when there, else from a given file, else measured.

    Nothing is written: the hook `costs_kept` does that once the run has begun, so that
    a resumed run goes by the same clock.

    Args:
      path: of the file.
      links: by name.
      like: the model.
      update: gives what the curve of `links["uplink"]` is measured on; None for no
        curve.
      training: gives the FLOPs of training on one example; None where nobody asks.
      of: what each cost is measured of, by its entry (`"training"`, `"curve"` or a
        link's name), in the words of the flags.
      given: costs of another run.

    Returns:
      `{"host": {...}, "of": of, "links": {name: [encode, decode]}}`, JSON-able; with an
      update `"curve"`, the rungs of `measure_curve`; with `training`
      `"training_flops"`, which files of earlier runs lack.

    Raises:
      RunDirectoryError: for a file that cannot be read, is of another format or does
        not hold costs, and a given one that lacks a cost of this run.
    """
    if path.is_file():
        return _read(path, curve=update is not None)
    if given is not None:
        return _given(given, links, of, curve=update is not None, training=training)
    host = host_device()
    measured: Json = {
        "host": dataclasses.asdict(host),
        "of": dict(of),
        "links": {
            name: [dataclasses.asdict(cost) for cost in codec_cost(link, like, host)]
            for name, link in links.items()
        },
    }
    if update is not None:
        measured["curve"] = measure_curve(links["uplink"], update(), host)
    if training is not None:
        measured[TRAINING] = training()
    return measured


def _given(
    path: Path,
    links: Mapping[str, Compressor],
    of: Mapping[str, str],
    *,
    curve: bool,
    training: object,
) -> Json:
    """Another run's costs, if they are those of this run."""
    check_holds(path, read_json(path), of)
    measured = _read(path, curve=curve)
    for name, there in (
        *((name, name in measured["links"]) for name in links),
        ("training", training is None or TRAINING in measured),
    ):
        if not there:
            raise lacking(path, name, of.get(name, ""))
    return measured


def check_holds(path: Path, measured: Json, of: Mapping[str, str]) -> None:
    """Refuses costs that were measured of something else than they are wanted of.

    Args:
      path: of the file.
      measured: what was read from it.
      of: what each entry is to be measured of.

    Raises:
      RunDirectoryError: when one is missing or of something else.
    """
    known = measured.get("of")
    held = known if isinstance(known, dict) else {}
    for entry, wanted in of.items():
        if held.get(entry) != wanted:
            raise lacking(path, entry, wanted, held.get(entry))


def lacking(
    path: Path, entry: str, wanted: str, held: object = None
) -> RunDirectoryError:
    """The error of a given file without a cost that the run needs."""
    of = f" of {wanted}" if wanted else ""
    instead = f", but {held}" if held else ""
    return RunDirectoryError(
        f"--costs={path} holds no cost '{entry}'{of}{instead}: give the file of a run "
        "that has it, or leave --costs out."
    )


def _read(path: Path, *, curve: bool) -> Json:
    expected: dict[str, Shape] = {"links": dict}
    if curve:
        expected["curve"] = list
    measured = read_json(path, expected)
    check_training(path, measured)
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


def check_training(path: Path, measured: Json) -> None:
    """Refuses `"training_flops"`, where there are any, that are no number above 0.

    Raises:
      RunDirectoryError: when it does.
    """
    try:
        known = strict_json.check_fields(
            measured, {TRAINING: NUMBER} if TRAINING in measured else {}
        )
        checks.positive(TRAINING, known.get(TRAINING, 1.0))
    except ValueError as error:
        raise RunDirectoryError(
            f"{path} does not hold the cost of training: {one_line(error)}."
        ) from error


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
