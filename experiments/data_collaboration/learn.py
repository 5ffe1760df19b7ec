"""Trains and scores models for all methods: one program for each shape of inputs."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from fedjax_comp.algorithms import fed_avg
from fedjax_comp.base import Examples, PyTree, Task
from fedjax_comp.data import Dataset, federated_data, make_batches
from fedjax_comp.execution import scanned
from fedjax_comp.experiment.expressions import build
from fedjax_comp.metrics import Ledger, as_written
from fedjax_comp.models import classification
from fedjax_comp.one_shot.independent import independent_models
from fedjax_comp.training import (
    Dispatch,
    TrainState,
    evaluation_program,
    init_state,
    round_program,
    uniform_cohorts,
)

EVALUATED_AT_ONCE = 500


class Learning(NamedTuple):
    """How models are trained and scored on inputs of one width.

    Attributes:
      task: the model and its loss.
      train: `(key, parts) -> [params]`, one model for each part's examples.
      score: `(params, examples) -> accuracy`.
      average: `(key, parts) -> (params, ledger)`, federated averaging over the parts.
    """

    task: Task
    train: Callable[[jax.Array, Sequence[Examples]], list[PyTree]]
    score: Callable[[PyTree, Examples], float]
    average: Callable[[jax.Array, Sequence[Examples]], tuple[PyTree, Ledger]]


def learning(values: flags.FlagValues, width: int, num_classes: int) -> Learning:
    """The learning of all methods on inputs `[N, width]`."""
    task = classification(
        build("model", values.model)(num_classes), input_shape=(width,)
    )
    optimizer = build("client_optimizer", values.client_optimizer)
    evaluate = jax.jit(
        evaluation_program(task, scanned(), batch_size=EVALUATED_AT_ONCE)
    )

    @functools.cache
    def program(size: int, parts: int) -> Callable[..., PyTree]:
        def batches(key: jax.Array, offsets: jax.Array) -> PyTree:
            return make_batches(
                key,
                jnp.arange(parts * size, dtype=jnp.int32),
                offsets,
                jnp.arange(parts, dtype=jnp.int32),
                max_client_size=size,
                epochs=values.epochs,
                batch_size=values.batch_size,
            )

        return jax.jit(independent_models(task, optimizer, batches))

    def train(key: jax.Array, parts: Sequence[Examples]) -> list[PyTree]:
        init_key, train_key = jax.random.split(key)
        sizes = [len(part.y) for part in parts]
        joined: Examples = jax.tree.map(
            lambda *x: jnp.asarray(np.concatenate(x)), *parts
        )
        offsets = jnp.asarray(np.cumsum([0, *sizes]), jnp.int32)
        models = program(max(sizes), len(sizes))(
            train_key, task.init(init_key), joined, offsets
        )
        return [jax.tree.map(lambda x, i=i: x[i], models) for i in range(len(parts))]

    averaging = fed_avg(task, client_optimizer=optimizer)

    @functools.cache
    def rounds(parts: int) -> Callable[..., tuple[TrainState, Dispatch]]:
        sample = uniform_cohorts(
            cohort_size=parts, epochs=1, batch_size=values.batch_size
        )
        return jax.jit(round_program(averaging, sample, max_rounds=values.epochs))

    def average(key: jax.Array, parts: Sequence[Examples]) -> tuple[PyTree, Ledger]:
        init_key, run_key = jax.random.split(key)
        joined: Examples = jax.tree.map(lambda *x: np.concatenate(x), *parts)
        # `score` is given the test examples, so these are never looked at.
        some: Examples = jax.tree.map(lambda x: x[:1], joined)
        dataset = Dataset("parts", joined, some, None, None, num_classes, 1.0)
        bounds = np.cumsum([0, *(len(part.y) for part in parts)])
        population = federated_data(
            dataset, [np.arange(*pair) for pair in itertools.pairwise(bounds)]
        )
        state = init_state(run_key, averaging, task.init(init_key), len(parts))
        state, dispatch = rounds(len(parts))(
            state, population, jnp.int32(values.epochs)
        )
        ledger = Ledger()
        ledger.record(dispatch)
        return averaging.params(state.server), ledger

    def score(params: PyTree, examples: Examples) -> float:
        return as_written(evaluate(params, examples).accuracy)

    return Learning(task, train, score, average)
