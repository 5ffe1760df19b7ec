"""The ladder as measured on this machine: sizes, errors and costs; once, then read."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from experiments.adaptive.methods import LEAF_RUNGS, RUNGS
from fedjax_comp.base import PyTree
from fedjax_comp.compress.budget.ladder import rung_bits
from fedjax_comp.experiment.conditions import codec_measures, host_device
from fedjax_comp.network.control import Ladder
from fedjax_comp.network.devices import Cost
from fedjax_comp.network.setting import Codec
from fedjax_comp.run_directory import Json, write_json
from fedjax_comp.wire.codes.fixed_width import bit_width


class Measured(NamedTuple):
    """The rungs of a ladder.

    Attributes:
      ladder: their sizes and errors.
      codec: their costs.
    """

    ladder: Ladder
    codec: Codec


def measured_ladder(path: Path, names: Sequence[str], params: PyTree) -> Json:
    """What is measured of every rung: read when there, else measured and written.

    Args:
      path: of the file.
      names: of the rungs.
      params: the model, whose shapes travel.
    """
    if path.is_file():
        read: Json = json.loads(path.read_text(encoding="utf-8"))
        return read
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
    made: Json = {
        "host": dataclasses.asdict(host),
        "num_parameters": num_parameters,
        "rungs": rungs,
    }
    write_json(path, made)
    return made


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
