"""Accuracy of the clients and classes that are served worst, in every row.

A method that leaves slow clients out may reach a mean accuracy sooner and never learn
what they hold. So a run that is asked for it records at every evaluation, in
`observed`, the accuracies that a mean hides.
"""

from collections.abc import Sequence

import jax
import numpy as np

from fedjax_comp.base import Execution, Task
from fedjax_comp.client_evaluation import (
    class_blocks,
    client_evaluation_program,
    training_blocks,
    worst_tenth,
)
from fedjax_comp.data import FederatedData
from fedjax_comp.hooks import Hook, Live
from fedjax_comp.metrics import Row, first_at_target
from fedjax_comp.run_directory import Json
from fedjax_comp.training import Dispatch, TrainState

FAIRNESS = (
    "worst_client_accuracy",
    "worst_tenth_accuracy",
    "worst_class_accuracy",
)
"""The least accuracy of a client on the examples it trains on, the mean of the worst
tenth of clients, and the least accuracy of a class on the test set."""

AT_TARGET = tuple(f"{name}_at_target" for name in FAIRNESS)

_BATCH_SIZE = 50


def fairness_observed(
    task: Task, execution: Execution, population: FederatedData
) -> Hook:
    """Adds `FAIRNESS` to what is observed at every evaluation but that before round 1.

    Args:
      task: the model.
      execution: how blocks of examples are mapped.
      population: whose clients and classes are meant.

    Returns:
      A hook; its values are in each row's `observed`, and so in every checkpoint.
    """
    evaluate = jax.jit(client_evaluation_program(task, execution))
    clients = training_blocks(population, batch_size=_BATCH_SIZE)
    classes = class_blocks(
        population.test, population.spec.num_classes, batch_size=_BATCH_SIZE
    )

    def after(live: Live, state: TrainState, dispatch: Dispatch) -> None:
        del dispatch
        if not live.is_due(live.schedule.eval_every):
            return
        # By value: the model may lie on several devices.
        params = jax.tree.map(np.asarray, live.problem.algorithm.params(state.server))
        own = np.asarray(evaluate(params, clients).accuracy, np.float64)
        by_class = np.asarray(evaluate(params, classes).accuracy, np.float64)
        found = (np.nanmin(own), worst_tenth(own), np.nanmin(by_class))
        for name, value in zip(FAIRNESS, found, strict=True):
            live.ledger.observe(name, float(value), "last")

    return Hook(after=after)


def fairness_of(rows: Sequence[Row], target: float | None) -> Json:
    """`FAIRNESS` at the end of a run, and `AT_TARGET` where it first had the target.

    Args:
      rows: the run's evaluations.
      target: a test accuracy; None for no target.

    Returns:
      Numbers; None where nothing was observed or the target was not reached.

    >>> found = fairness_of([{"round": 1, "test_accuracy": 0.5}], 0.9)
    >>> found["worst_client_accuracy"], found["worst_class_accuracy_at_target"]
    (None, None)
    """
    first = first_at_target(rows, target)
    return {
        **_observed(rows[-1] if rows else None, FAIRNESS),
        **_observed(first, AT_TARGET),
    }


def _observed(row: Row | None, names: Sequence[str]) -> Json:
    known = {} if row is None else row.get("observed", {})
    return {name: known.get(of) for name, of in zip(names, FAIRNESS, strict=True)}
