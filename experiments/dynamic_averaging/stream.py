"""Builds a stream from flags: examples, drifts, the task, and what is held out."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from fedjax_comp import data
from fedjax_comp.base import Examples, Task
from fedjax_comp.data import forest_stream
from fedjax_comp.data.streams import (
    Drift,
    Stream,
    StreamData,
    StreamSpec,
    drift_times,
    example_data,
    example_stream,
    graphical_model,
    permuted_labels,
    rotated_images,
    synthetic_data,
)
from fedjax_comp.experiment.expressions import build
from fedjax_comp.experiment.main import UsageError
from fedjax_comp.models import classification


class Synthetic(NamedTuple):
    """A stream that is drawn as it arrives.

    Attributes:
      cut: `StreamSpec -> Stream`.
      num_features: length of an example.
      num_classes: labels.
    """

    cut: Callable[[StreamSpec], Stream]
    num_features: int
    num_classes: int


SYNTHETIC = {
    "graphical": Synthetic(functools.partial(graphical_model, num_features=50), 50, 2),
    "forest": Synthetic(
        forest_stream.forest_model,
        forest_stream.NUM_FEATURES,
        forest_stream.NUM_CLASSES,
    ),
}
"""By the name that `--stream` gives."""

IN_TIME_ORDER = frozenset({"electricity"})
"""Data sets whose examples arrive in the order they are stored in."""

NUM_HELD_OUT = 2000


class StreamProblem(NamedTuple):
    """A stream, and what is learned from it.

    Attributes:
      cut: `(updates in a round) -> Stream`.
      data: the stream's data, on the device.
      task: the model and its loss.
      held_out: examples of the last concept that are not in the stream.
    """

    cut: Callable[[int], Stream]
    data: StreamData
    task: Task
    held_out: Examples


def num_updates(values: flags.FlagValues, period: int) -> int:
    """Updates of each learner: `--num_updates`, or as many as one pass has.

    Args:
      values: the flags.
      period: what it must be a multiple of.

    Returns:
      The number.

    Raises:
      ValueError: when it is none, or not a multiple of `period`.
    """
    asked: int = values.num_updates
    if not asked:
        if values.stream in SYNTHETIC:
            raise UsageError(
                f"--stream={values.stream} has no end: give --num_updates=N."
            )
        count = len(_load(values).train.y)
        each = count // (values.num_clients * max(values.batch_size, 1))
        asked = each // period * period
        if not asked:
            raise UsageError(
                f"--num_updates=0: the {count} examples of {values.stream} are "
                f"{each} updates of {values.num_clients} learners, and the protocols "
                f"need a multiple of {period}."
            )
    if asked % period:
        raise UsageError(
            f"--num_updates={asked} is not a multiple of {period}, so that some "
            "protocols would end within a round."
        )
    return asked


def build_stream(values: flags.FlagValues) -> StreamProblem:
    """Builds what the flags describe; `values.num_updates` is the stream's length."""
    drift_is = values.drift != "none"
    if drift_is != bool(values.num_drifts):
        raise UsageError(
            f"--drift={values.drift} does not go with --num_drifts="
            f"{values.num_drifts}: give both or neither."
        )
    drifts = drift_times(values.num_updates, values.num_drifts, seed=values.seed)
    model = build("model", values.model)
    if values.stream in SYNTHETIC:
        return _synthetic(values, model, drifts)
    return _from_examples(values, model, drifts)


def _spec(values: flags.FlagValues, updates: int) -> StreamSpec:
    return StreamSpec(values.num_clients, updates, values.batch_size)


def _synthetic(
    values: flags.FlagValues, model: Callable, drifts: np.ndarray
) -> StreamProblem:
    if values.drift not in ("none", "redrawn"):
        raise UsageError(
            f"--drift={values.drift} is not for --stream={values.stream}: its drift is "
            "redrawn."
        )
    chosen = SYNTHETIC[values.stream]
    stream_data = synthetic_data(drifts=drifts, seed=values.seed)
    # An update that the stream does not reach, under its last concept.
    beyond = chosen.cut(StreamSpec(1, 1, NUM_HELD_OUT))
    held_out = beyond(
        stream_data.key, jnp.int32(values.num_updates), stream_data
    ).examples
    return StreamProblem(
        cut=lambda updates: chosen.cut(_spec(values, updates)),
        data=stream_data,
        task=classification(
            model(chosen.num_classes), input_shape=(chosen.num_features,)
        ),
        held_out=held_out,
    )


def _from_examples(
    values: flags.FlagValues, model: Callable, drifts: np.ndarray
) -> StreamProblem:
    dataset = _load(values)
    drift = _drift(values, dataset)
    arriving = values.num_updates * values.num_clients * values.batch_size
    stream_data = example_data(
        dataset,
        drifts=drifts,
        seed=values.seed,
        in_order=values.stream in IN_TIME_ORDER,
        num_passes=max(1, math.ceil(arriving / len(dataset.train.y))),
    )
    held_out = jax.tree.map(jnp.asarray, dataset.test)
    if drift is not None:
        held_out = drift(stream_data.key, jnp.int32(len(drifts)), held_out)
    return StreamProblem(
        cut=lambda updates: example_stream(_spec(values, updates), drift),
        data=stream_data,
        task=classification(
            model(dataset.num_classes),
            input_shape=dataset.train.x.shape[1:],
            scale=dataset.scale,
        ),
        held_out=held_out,
    )


def _load(values: flags.FlagValues) -> data.Dataset:
    dataset = data.load(values.stream, data_dir=values.data_dir, raw_dir=values.raw_dir)
    if dataset.train.y.ndim > 1:
        raise UsageError(f"--stream={values.stream} has sequences, not examples.")
    return dataset


def _drift(values: flags.FlagValues, dataset: data.Dataset) -> Drift | None:
    match values.drift:
        case "none":
            return None
        case "permuted_labels":
            return permuted_labels(dataset.num_classes)
        case "rotated_images":
            shape = dataset.train.x.shape[1:]
            if len(shape) != 3 or shape[0] != shape[1]:
                raise UsageError(
                    f"--drift=rotated_images needs square images; those of "
                    f"{values.stream} have shape {shape}."
                )
            return rotated_images()
    raise UsageError(
        f"--drift={values.drift} is not one of none, permuted_labels, rotated_images."
    )
