"""The compact model of a run: what it saves in parameters, operations and time."""

from pathlib import Path

import jax
import numpy as np
from flax import linen as nn

from experiments.fed_dlr.timing import apply_jitted, latency_seconds
from fedjax_comp.base import Examples, PyTree
from fedjax_comp.execution import scanned
from fedjax_comp.metrics import as_written
from fedjax_comp.models import Compact, classification, factorize
from fedjax_comp.run_directory import Json
from fedjax_comp.saved_model import load_model, save_model
from fedjax_comp.training import evaluation_program

LATENCY_BATCHES = (1, 256)


def compact_summary(
    module: nn.Module,
    params: PyTree,
    *,
    energy: float,
    cut_rank: int,
    test: Examples,
    scale: float,
    directory: Path,
) -> Json:
    """Factorizes a model, saves it, and holds the one read back against the dense one.

    Args:
      module: the dense network.
      params: its parameters.
      energy: of `factorize`.
      cut_rank: `max_rank` of a second factorization, which is what a model that was
        trained in any way is worth when it is cut afterwards.
      test: the test examples.
      scale: what inputs are multiplied by.
      directory: where the compact model is saved.

    Returns:
      Parameters, floating-point operations of one example, seconds a batch, and test
      accuracy, of both, and how many times as much the dense one has and takes; the
      same of a second copy of the dense one for the seconds (`control`), and
      parameters and accuracy of the one that is cut to `cut_rank`.
    """
    params = jax.device_get(params)
    compact = factorize(module, params, energy=energy)
    save_model(directory, compact.module, compact.params)
    both = {"dense": Compact(module, params), "compact": load_model(directory)}
    image = np.asarray(test.x[:1]) * np.float32(scale)
    facts: Json = {"compact_ranks": dict(compact.module.ranks)}
    for name, (network, weights) in both.items():
        facts[f"{name}_parameters"] = parameters(weights)
        facts[f"{name}_flops"] = flops(network, weights, image)
        facts[f"{name}_accuracy"] = accuracy(network, weights, test, scale)
    for what in ("parameters", "flops"):
        ratio = facts[f"dense_{what}"] / facts[f"compact_{what}"]
        facts[f"dense_over_compact_{what}"] = ratio
    timed = {**both, "control": both["dense"]}
    for batch in LATENCY_BATCHES:
        seconds = latency_seconds(timed, np.repeat(image, batch, axis=0))
        column = f"seconds_batch_{batch}"
        for name in both:
            facts[f"{name}_{column}"] = seconds[name]
        for name in ("compact", "control"):
            ratio = seconds["dense"] / seconds[name]
            facts[f"dense_over_{name}_{column}"] = ratio
    cut = factorize(module, params, energy=energy, max_rank=cut_rank)
    facts["cut_parameters"] = parameters(cut.params)
    facts["cut_accuracy"] = accuracy(cut.module, cut.params, test, scale)
    return facts


def parameters(params: PyTree) -> int:
    """How many numbers a model is."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def flops(module: nn.Module, params: PyTree, x: np.ndarray) -> float:
    """Floating-point operations of one call, as XLA counts them before it optimizes."""
    analysis = apply_jitted(module).lower(params, x).cost_analysis()
    return float((analysis or {})["flops"])


def accuracy(module: nn.Module, params: PyTree, test: Examples, scale: float) -> float:
    """Share of test examples that the network labels correctly."""
    task = classification(module, input_shape=test.x.shape[1:], scale=scale)
    evaluate = jax.jit(evaluation_program(task, scanned(), batch_size=500))
    return as_written(evaluate(params, test).accuracy)
