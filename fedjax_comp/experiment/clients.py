"""Accuracy of every client at the end of a run, from a flag to table and figure.

`fedjax_comp.client_evaluation` measures it. This module has the flag, `clients.csv`
with a line for each client, and the columns that a summary has of it.
"""

import csv
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from absl import flags

from fedjax_comp.base import Execution, PyTree, Task
from fedjax_comp.client_evaluation import (
    QUANTILES,
    ClientAccuracy,
    ClientBlocks,
    accuracy_facts,
    client_evaluation_program,
    held_out_blocks,
    training_blocks,
)
from fedjax_comp.data import Dataset, FederatedData
from fedjax_comp.experiment.errors import UsageError
from fedjax_comp.experiment.table import to_csv
from fedjax_comp.hooks import Hook, Live
from fedjax_comp.problem import Problem
from fedjax_comp.report import Run
from fedjax_comp.report.plots import line_figure
from fedjax_comp.run_directory import Json, RunDirectory, RunDirectoryError, write_text
from fedjax_comp.training import Dispatch, TrainState
from fedjax_comp.wording import one_line

CLIENTS_FILE = "clients.csv"
Personal = Callable[[PyTree, PyTree], PyTree]
"""`Algorithm.personal`."""

BATCH_SIZE = 50
"""Examples in a block; a client of fewer has a block of its own all the same."""

_FACTS = (
    *("mean", "weighted_mean", "spread", "worst", "worst_tenth"),
    *QUANTILES,
    *("evaluated", "without_examples"),
)
CLIENT_COLUMNS = tuple(
    f"clients_{name}"
    if name in ("evaluated", "without_examples")
    else f"client_accuracy_{name}"
    for name in _FACTS
)
"""What a summary, and a row of it, has of the clients; numbers all of them."""


def define_clients(values: flags.FlagValues) -> None:
    """Defines `--evaluate_clients`, None so that older directories can be resumed."""
    flags.DEFINE_enum(
        "evaluate_clients",
        None,
        ["held_out", "train"],
        "Evaluate the last model on every client's own examples: those of its natural "
        "group in the test set (--partition='natural()'), or those it trains on. With "
        "fed_per(), ditto() and fed_distill() each is evaluated with the model of "
        "its own.",
        flag_values=values,
    )


def _asked(values: flags.FlagValues) -> str | None:
    return values.evaluate_clients if "evaluate_clients" in values else None


def check_clients(values: flags.FlagValues) -> None:
    """Refuses what several processes cannot do.

    Raises:
      UsageError: when they are asked for it.
    """
    if _asked(values) is not None and jax.process_count() > 1:
        raise UsageError(
            "--evaluate_clients: clients are evaluated by a process that has all of "
            "them; leave --num_processes out."
        )


def client_blocks(
    values: flags.FlagValues, dataset: Dataset, population: FederatedData
) -> ClientBlocks | None:
    """What the flags want every client to be evaluated on; None for nothing.

    Raises:
      UsageError: where clients hold nothing of that kind.
    """
    asked = _asked(values)
    if asked is None:
        return None
    try:
        if asked == "train":
            return training_blocks(population, batch_size=BATCH_SIZE)
        return held_out_blocks(dataset, population, batch_size=BATCH_SIZE)
    except ValueError as error:
        raise UsageError(f"--evaluate_clients={asked}: {error}") from error


def evaluate_clients(
    task: Task,
    execution: Execution,
    blocks: ClientBlocks | None,
) -> Callable[..., ClientAccuracy] | None:
    """The function that `Problem.evaluate_clients` is; None without blocks."""
    if blocks is None:
        return None

    def evaluate(
        blocks: ClientBlocks, model: PyTree, personal: Personal | None = None
    ) -> ClientAccuracy:
        program = client_evaluation_program(task, execution, personal=personal)
        return jax.jit(program)(model, blocks)

    return functools.partial(evaluate, blocks)


class Last(NamedTuple):
    """A hook, and what it saw last: of the end of the run, once it is over.

    Attributes:
      hooks: none where no client has a model of its own, or nobody evaluates them.
      seen: the last `TrainState` and the `Algorithm.personal` that reads it, alone in
        a list that is empty before.
    """

    hooks: list[Hook]
    seen: list[tuple[TrainState, Personal]]


def last_clients(values: flags.FlagValues, problem: Problem, store: str) -> Last:
    """Keeps at hand what clients' own models are made of.

    Args:
      values: the run's flags.
      problem: what is run.
      store: where clients' states are, `--client_store`.

    Raises:
      UsageError: for clients' states that are kept on disk.
    """
    personal = problem.algorithm.personal is not None
    if problem.evaluate_clients is None or not personal:
        return Last([], [])
    if store == "disk":
        raise UsageError(
            f"--client_store=disk: clients of {values.algorithm} are evaluated with "
            "models of their own, which must be at hand; leave it out, or "
            "--evaluate_clients."
        )
    seen: list[tuple[TrainState, Personal]] = []

    def note(live: Live, state: TrainState) -> TrainState:
        own = live.problem.algorithm.personal
        assert own is not None  # hooks wrap it and do not take it away
        seen[:] = [(state, own)]
        return state

    def after(live: Live, state: TrainState, dispatch: Dispatch) -> None:
        del dispatch
        note(live, state)

    return Last([Hook(begin=note, after=after, whole_clients=True)], seen)


def write_clients(
    directory: RunDirectory,
    values: flags.FlagValues,
    problem: Problem,
    params: PyTree,
    last: Last,
) -> Json:
    """Evaluates the clients, where that is asked for, and writes `clients.csv`.

    Args:
      directory: of the run.
      values: its flags.
      problem: what was run.
      params: its last model.
      last: whose hooks were called in the run.

    Returns:
      What the summary is to have: `evaluate_clients`, what they were evaluated on, and
      `CLIENT_COLUMNS`.
    """
    if problem.evaluate_clients is None:
        return {}
    if last.hooks:
        ((state, own),) = last.seen
        found = problem.evaluate_clients((state.server, state.clients), own)
    else:
        found = problem.evaluate_clients(params)
    clients = jax.tree.map(np.asarray, found)
    rows = [
        dict(zip(("client", *ClientAccuracy._fields), row, strict=True))
        for row in zip(
            range(len(clients.accuracy)),
            *(_known(x) for x in clients),
            strict=True,
        )
    ]
    columns = ("client", *ClientAccuracy._fields)
    write_text(directory.path / CLIENTS_FILE, to_csv(columns, rows))
    facts = accuracy_facts(clients)
    return {
        "evaluate_clients": _asked(values),
        **{
            column: facts[name]
            for column, name in zip(CLIENT_COLUMNS, _FACTS, strict=True)
        },
    }


def _known(values: np.ndarray) -> list[float | None]:
    return [x if np.isfinite(x) else None for x in values.tolist()]


def read_accuracies(workdir: Path) -> np.ndarray:
    """The clients' accuracies in `clients.csv`, float64, without those of none.

    Raises:
      RunDirectoryError: when the file cannot be read.
    """
    path = workdir / CLIENTS_FILE
    try:
        with path.open(encoding="utf-8", newline="") as file:
            texts = [row["accuracy"] for row in csv.DictReader(file)]
        return np.array([float(text) for text in texts if text])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise RunDirectoryError(f"{path} cannot be read: {one_line(error)}.") from error


def accuracy_of_clients(runs: Mapping[str, Path], path: Path) -> Path:
    """Draws the clients' accuracies, lowest first: one curve a run.

    Args:
      runs: name to run directory, each with `clients.csv`.
      path: where to write the figure.

    Returns:
      The path written.

    Raises:
      RunDirectoryError: when a run has no such file.
    """

    def curve(name: str, workdir: Path) -> Run:
        ordered = np.sort(read_accuracies(workdir))
        shares = (np.arange(len(ordered)) + 0.5) / len(ordered)
        rows = zip(shares.tolist(), ordered.tolist(), strict=True)
        return Run(name, [{"share": a, "accuracy": b} for a, b in rows])

    return line_figure(
        [curve(name, workdir) for name, workdir in runs.items()],
        x="share",
        y="accuracy",
        xlabel="Clients, the lowest accuracy first (share of all)",
        ylabel="Accuracy on a client's own examples",
        path=path,
    )
