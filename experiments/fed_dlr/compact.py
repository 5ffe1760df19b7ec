"""The compact model of a run: what it saves in numbers, in work and in time."""

import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from fedjax_comp.base import Examples, PyTree
from fedjax_comp.execution import scanned
from fedjax_comp.models import Compact, classification, factorize
from fedjax_comp.run_directory import Json
from fedjax_comp.saved_model import load_model, save_model
from fedjax_comp.training import evaluation_program

LATENCY_BATCHES = (1, 256)
REPEATS = 15


def compact_summary(
    module: nn.Module,
    params: PyTree,
    *,
    energy: float,
    test: Examples,
    scale: float,
    directory: Path,
) -> Json:
    """Factorizes a model, saves it, and holds the one read back against the dense one.

    Args:
      module: the dense network.
      params: its parameters.
      energy: of `factorize`.
      test: the test examples.
      scale: what inputs are multiplied by.
      directory: where the compact model is saved.

    Returns:
      Parameters, floating-point operations of one example, seconds a batch, and test
      accuracy, of both, and how many times as much the dense one has and takes.
    """
    compact = factorize(module, params, energy=energy)
    save_model(directory, compact.module, compact.params)
    both = {"dense": Compact(module, params), "compact": load_model(directory)}
    image = np.asarray(test.x[:1]) * np.float32(scale)
    facts: Json = {"compact_ranks": dict(compact.module.ranks)}
    for name, (network, weights) in both.items():
        facts[f"{name}_parameters"] = sum(x.size for x in jax.tree.leaves(weights))
        facts[f"{name}_flops"] = flops(network, weights, image)
        facts[f"{name}_accuracy"] = accuracy(network, weights, test, scale)
    for batch in LATENCY_BATCHES:
        seconds = latency_seconds(both, np.repeat(image, batch, axis=0))
        for name in both:
            facts[f"{name}_seconds_batch_{batch}"] = seconds[name]
    seconds_names = (f"seconds_batch_{batch}" for batch in LATENCY_BATCHES)
    for what in ("parameters", "flops", *seconds_names):
        ratio = facts[f"dense_{what}"] / facts[f"compact_{what}"]
        facts[f"dense_over_compact_{what}"] = ratio
    return facts


def _apply(module: nn.Module) -> jax.stages.Wrapped:
    return jax.jit(lambda params, x: module.apply({"params": params}, x))


def flops(module: nn.Module, params: PyTree, x: np.ndarray) -> float:
    """Floating-point operations of one call, as XLA counts them before it optimizes."""
    analysis = _apply(module).lower(params, x).cost_analysis()
    return float((analysis or {})["flops"])


def accuracy(module: nn.Module, params: PyTree, test: Examples, scale: float) -> float:
    """Share of test examples that the network labels correctly."""
    task = classification(module, input_shape=test.x.shape[1:], scale=scale)
    evaluate = jax.jit(evaluation_program(task, scanned(), batch_size=500))
    return float(evaluate(params, test).accuracy)


def latency_seconds(models: dict[str, Compact], x: np.ndarray) -> dict[str, float]:
    """Least seconds of one call, taken in turn, so that load from outside meets all."""
    calls = {
        name: (_apply(model.module), model.params) for name, model in models.items()
    }
    inputs = jnp.asarray(x)
    least = dict.fromkeys(calls, float("inf"))
    for _ in range(REPEATS + 1):
        for name, (apply, params) in calls.items():
            started = time.perf_counter()
            apply(params, inputs).block_until_ready()
            least[name] = min(least[name], time.perf_counter() - started)
    return least
