"""Tasks of which a part is trained: the rest is neither changed nor sent.

Algorithms train, send and count only what is in a task's `params`. So the frozen part
of a model is taken out of these and put back inside the loss.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedjax_comp import checks
from fedjax_comp.base import Examples, PyTree, Sums, Task

Build = Callable[[PyTree], PyTree]
"""`(own params) -> params` of the whole model."""


def of_part(task: Task, init: Callable[[jax.Array], PyTree], build: Build) -> Task:
    """A task whose parameters are those from which the model's are built.

    Args:
      task: of the whole model.
      init: `(key) -> own params`: what is trained and travels.
      build: makes the model's parameters from them; what it adds is known to all.

    >>> from fedjax_comp.models import classification, linear
    >>> task = classification(linear()(2), input_shape=(3,))
    >>> tied = of_part(
    ...     task, lambda key: jnp.zeros(2),
    ...     lambda b: {"Dense_0": {"kernel": jnp.ones((3, 2)), "bias": b}})
    >>> tied.init(jax.random.key(0)).tolist()
    [0.0, 0.0]
    """

    def loss(
        params: PyTree, examples: Examples, mask: jax.Array, key: jax.Array
    ) -> jax.Array:
        return task.loss(build(params), examples, mask, key)

    def evaluate(params: PyTree, examples: Examples, mask: jax.Array) -> Sums:
        return task.evaluate(build(params), examples, mask)

    return Task(init, loss, evaluate, derived=task.derived)


def frozen(task: Task, params: PyTree, *names: str) -> Task:
    """A task in which some layers stay as they are.

    Args:
      task: of the whole model.
      params: the model as all have it, such as one trained before; a dict of layers.
      *names: the layers that are neither trained nor sent, such as "Conv_0".

    Returns:
      A `Task` whose params are the other layers, which begin as they are in `params`.

    Raises:
      ValueError: for a name that is no layer, where nothing is left to train, and for a
        model with running statistics.

    >>> from fedjax_comp.models import classification, mlp
    >>> task = classification(mlp(4)(2), input_shape=(3,))
    >>> params = task.init(jax.random.key(0))
    >>> head = frozen(task, params, "Dense_0")
    >>> list(head.init(jax.random.key(1)))
    ['Dense_1']
    """
    checks.gradients_alone("frozen()", params)
    for name in names:
        if name not in params:
            raise ValueError(
                f"Expected frozen layer {name!r} to be one of {', '.join(params)}."
            )
    own = {name: layer for name, layer in params.items() if name not in names}
    if not own:
        raise ValueError(f"Expected a layer to train besides {', '.join(names)}.")
    kept = {name: params[name] for name in names}
    return of_part(task, lambda key: own, lambda trained: {**kept, **trained})


def low_rank_adapted(
    task: Task, params: PyTree, *, rank: int, alpha: float | None = None
) -> Task:
    """A task that trains low-rank changes of a model's matrices (LoRA).

    Every leaf of two axes, `W` of `[m, n]`, for which it is fewer numbers, becomes
    `W + (alpha / R) A B` with `A` `[m, R]` and `B` `[R, n]`; all other leaves stay.
    `B` is 0 at first, so that training begins from the model.

    Args:
      task: of the whole model.
      params: the model as all have it.
      rank: `R`.
      alpha: scales the changes; `R` when None, so that they are `A B`.

    Returns:
      A `Task` whose params are, by the path of their matrix, dicts of `"a"` and `"b"`.

    Raises:
      ValueError: for a rank below one, an alpha that is not finite, or a model without
        a matrix that is larger than its factors, or with running statistics.

    >>> from fedjax_comp.models import classification, linear
    >>> task = classification(linear()(10), input_shape=(64,))
    >>> adapted = low_rank_adapted(task, task.init(jax.random.key(0)), rank=2)
    >>> jax.tree.map(jnp.shape, adapted.init(jax.random.key(1)))
    {"['Dense_0']['kernel']": {'a': (64, 2), 'b': (2, 10)}}

    Source: Hu et al. 2021, "LoRA: low-rank adaptation of large language models",
    section 4.1.
    """
    checks.integer("rank", rank, minimum=1)
    checks.gradients_alone("low_rank_adapted()", params)
    scale = 1.0 if alpha is None else alpha / rank
    if not math.isfinite(scale):
        raise ValueError(f"Expected a finite alpha={alpha}.")
    leaves, treedef = jax.tree.flatten_with_path(params)
    named = [(jax.tree_util.keystr(path), leaf) for path, leaf in leaves]
    chosen = {
        name: leaf
        for name, leaf in named
        if leaf.ndim == 2 and rank * sum(leaf.shape) < leaf.size
    }
    if not chosen:
        raise ValueError(
            f"Expected a matrix that is more numbers than factors of rank={rank}."
        )

    def init(key: jax.Array) -> PyTree:
        keys = jax.random.split(key, len(chosen))
        return {
            name: {
                "a": (
                    jax.random.normal(own, (leaf.shape[0], rank)) / leaf.shape[0] ** 0.5
                ).astype(leaf.dtype),
                "b": jnp.zeros((rank, leaf.shape[1]), leaf.dtype),
            }
            for own, (name, leaf) in zip(keys, chosen.items(), strict=True)
        }

    def build(trained: PyTree) -> PyTree:
        def changed(name: str, leaf: jax.Array) -> jax.Array:
            if name not in trained:
                return leaf
            product = trained[name]["a"] @ trained[name]["b"]
            return leaf + (scale * product).astype(leaf.dtype)

        return jax.tree.unflatten(treedef, [changed(*one) for one in named])

    return of_part(task, init, build)
