"""Measures the ladder on this machine: sizes, errors, costs; later calls read them."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from experiments.adaptive.methods import LEAF_RUNGS, RUNGS
from fedjax_comp.base import PyTree
from fedjax_comp.compress.budget.ladder import rung_bits
from fedjax_comp.network.codec_cost import codec_measures, host_device
from fedjax_comp.network.control import Ladder
from fedjax_comp.network.devices import Cost
from fedjax_comp.network.kept_costs import (
    TRAINING,
    check_cost,
    check_holds,
    check_training,
    lacking,
)
from fedjax_comp.network.setting import Codec
from fedjax_comp.run_directory import Json, RunDirectoryError, read_json
from fedjax_comp.strict_json import NUMBER, Shape, check_fields
from fedjax_comp.wire.codes.fixed_width import bit_width

_RUNG: Mapping[str, Shape] = {
    "name": str,
    "bits": int,
    "error": NUMBER,
    "encode": dict,
    "decode": dict,
}


class Measured(NamedTuple):
    """The rungs of a ladder.

    Attributes:
      ladder: their sizes and errors.
      codec: their costs.
    """

    ladder: Ladder
    codec: Codec


def measured_ladder(
    path: Path,
    names: Sequence[str],
    params: PyTree,
    *,
    training: Callable[[], float] | None = None,
    model: str = "",
    given: Path | None = None,
) -> Json:
    """What is measured of every rung and of training: read when there, else measured.

    Writing it is left to the caller.

    Args:
      path: of the file.
      names: of the rungs.
      params: the model, whose shapes travel.
      training: gives the FLOPs of training on one example; None where nobody asks.
      model: what is trained on what, in the words of the flags.
      given: the ladder of another run; what is more than this one needs is left out.

    Raises:
      RunDirectoryError: for a file that does not hold a ladder, and a given one that
        lacks a rung or is of another model.
    """
    if path.is_file():
        return _read(path)
    if given is not None:
        return given_ladder(given, names, model, training=training is not None)
    host = host_device()
    num_parameters = sum(x.size for x in jax.tree.leaves(params))
    rungs = []
    for name in names:
        encode, decode, error = codec_measures(RUNGS[name](), params, host)
        rungs.append(
            {
                "name": name,
                "bits": rung_bits((RUNGS[name](),), params)[0],
                "error": error,
                "encode": dataclasses.asdict(encode),
                "decode": dataclasses.asdict(decode),
            }
        )
    counted = {} if training is None else {TRAINING: training()}
    return {
        "host": dataclasses.asdict(host),
        "of": {"model": model},
        "num_parameters": num_parameters,
        "rungs": rungs,
        **counted,
    }


def given_ladder(
    path: Path, names: Sequence[str], model: str, *, training: bool
) -> Json:
    """The rungs that are wanted of another run's ladder.

    Args:
      path: of its file.
      names: of the rungs.
      model: as for `measured_ladder`.
      training: whether the cost of training is wanted, too.

    Raises:
      RunDirectoryError: as `measured_ladder`.
    """
    known = _read(path)
    check_holds(path, known, {"model": model})
    if training and TRAINING not in known:
        raise lacking(path, "training", model)
    by_name = {rung["name"]: rung for rung in known["rungs"]}
    for name in names:
        if name not in by_name:
            raise lacking(path, f"rung {name}", model)
    return {**known, "rungs": [by_name[name] for name in names]}


def _read(path: Path) -> Json:
    measured = read_json(path, {"num_parameters": int, "rungs": list})
    check_training(path, measured)
    for rung in measured["rungs"]:
        _check_rung(path, rung)
    return measured


def _check_rung(path: Path, rung: object) -> None:
    try:
        known = check_fields(rung, _RUNG)
    except ValueError as error:
        raise RunDirectoryError(f"{path} does not hold a ladder: {error}") from error
    for name in ("encode", "decode"):
        check_cost(path, known[name])


def as_ladder(measured: Json, *, per_leaf: bool) -> Measured:
    """The ladder that a compressor of `make_uplink` sends from.

    Args:
      measured: of `measured_ladder`.
      per_leaf: whether it is that of single leaves.
    """
    rungs = measured["rungs"]
    if per_leaf:
        rungs = [rung for rung in rungs if rung["name"] in LEAF_RUNGS]
    index_bits = bit_width(len(rungs))
    ladder = Ladder(
        bits=np.array([rung["bits"] + index_bits for rung in rungs], np.float64),
        errors=np.array([rung["error"] for rung in rungs]),
        num_parameters=measured["num_parameters"],
    )
    codec = Codec(
        tuple(Cost(**rung["encode"]) for rung in rungs),
        tuple(Cost(**rung["decode"]) for rung in rungs),
    )
    return Measured(ladder, codec)
