"""What defines a run: an algorithm on data, and when the host is needed."""

from collections.abc import Callable
from typing import NamedTuple

from fedjax_comp.base import Algorithm, Compressor, Examples, PyTree, Task
from fedjax_comp.client_evaluation import ClientAccuracy
from fedjax_comp.training import Evaluation, Sampler


class Problem(NamedTuple):
    """What is run: an algorithm on data, and how its model is evaluated.

    Attributes:
      algorithm: the algorithm.
      sample: draws each round's cohort.
      data: what `sample` draws from, a tree of arrays.
      params: the initial model.
      num_clients: `K`.
      evaluate: `(params, test) -> Evaluation`, not yet jitted.
      test: the test examples.
      links: direction to the `Compressor` of its messages, for audits.
      evaluate_clients: `(params) -> ClientAccuracy` of the model at the end, or
        `((server_state, client_states[K]), personal) -> ClientAccuracy` with the
        algorithm's `personal`; jitted. None where nobody asked for it.
      task: what clients train on, whose loss-gradient a simulated clock charges for;
        None where it goes by the number of parameters.
    """

    algorithm: Algorithm
    sample: Sampler
    data: PyTree
    params: PyTree
    num_clients: int
    evaluate: Callable[[PyTree, Examples], Evaluation]
    test: Examples
    links: dict[str, Compressor]
    evaluate_clients: Callable[..., ClientAccuracy] | None = None
    task: Task | None = None


class Schedule(NamedTuple):
    """When the host is needed; every period counts rounds, 0 is never.

    Attributes:
      num_rounds: rounds in all.
      eval_every: period of evaluations (the last round is always evaluated).
      checkpoint_every: period of checkpoints (the last round then has one too).
      audit_every: period of audits.
      target_accuracy: the accuracy to count rounds to, or None.
      stop_at_target: end the run at the first evaluation that reaches it.
    """

    num_rounds: int
    eval_every: int = 1
    checkpoint_every: int = 0
    audit_every: int = 0
    target_accuracy: float | None = None
    stop_at_target: bool = False
