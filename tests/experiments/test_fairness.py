"""Who is served worst, against a loop over clients and classes."""

import itertools

import jax
import numpy as np
import pytest

from fedjax_comp import data
from fedjax_comp.base import Algorithm
from fedjax_comp.execution import scanned
from fedjax_comp.experiment.fairness import (
    AT_TARGET,
    FAIRNESS,
    fairness_observed,
    fairness_of,
)
from fedjax_comp.hooks import Live
from fedjax_comp.metrics import Ledger
from fedjax_comp.models import classification, linear
from fedjax_comp.problem import Problem, Schedule
from fedjax_comp.training import TrainState

CLIENTS = 15


def test_the_worst_are_those_of_a_loop():
    population = data.federate(
        data.load("digits"), data.shards(2), num_clients=CLIENTS, seed=0
    )
    task = classification(linear()(10), input_shape=(8, 8, 1), scale=1 / 16)
    params = task.init(jax.random.key(3))
    algorithm = Algorithm(None, None, params=lambda server: server)
    problem = Problem(algorithm, None, None, None, CLIENTS, None, None, {})
    live = Live(None, problem, Schedule(num_rounds=9), Ledger(rounds=2), None)
    hook = fairness_observed(task, scanned(), population)
    hook.after(live, TrainState(None, None, params, None), None)

    weights, bias = (
        np.asarray(leaf)
        for leaf in sorted(jax.tree.leaves(params), key=lambda leaf: -leaf.ndim)
    )

    def right(examples):
        x = np.asarray(examples.x).reshape(-1, 64) / 16
        return (x @ weights + bias).argmax(axis=1) == np.asarray(examples.y)

    trained, tested = right(population.examples), right(population.test)
    order, offsets = np.asarray(population.order), np.asarray(population.offsets)
    own = sorted(trained[order[a:b]].mean() for a, b in itertools.pairwise(offsets))
    labels = np.asarray(population.test.y)
    by_class = min(tested[labels == label].mean() for label in range(10))
    # A tenth of 15 clients is two of them.
    expected = (own[0], np.mean(own[:2]), by_class)
    assert [live.ledger.observed[name] for name in FAIRNESS] == pytest.approx(expected)
    # Every second round is evaluated: nothing is looked at between.
    live.schedule, live.ledger = Schedule(num_rounds=9, eval_every=2), Ledger(rounds=1)
    hook.after(live, TrainState(None, None, params, None), None)
    assert live.ledger.observed == {}


def test_at_the_target_is_where_it_was_first_reached():
    rows = [
        {"round": i, "test_accuracy": accuracy, "observed": {FAIRNESS[0]: i / 10}}
        for i, accuracy in enumerate((0.1, 0.6, 0.4, 0.7))
    ]
    found = fairness_of(rows, 0.5)
    assert (found[FAIRNESS[0]], found[AT_TARGET[0]]) == (0.3, 0.1)
    assert fairness_of(rows, 0.9)[AT_TARGET[0]] is None
    assert set(fairness_of([], None)) == {*FAIRNESS, *AT_TARGET}
