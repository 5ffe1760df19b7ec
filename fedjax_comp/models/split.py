"""Any model of the zoo, cut between two of its layers into parts that run apart.

A model's layers are the modules that it calls by itself, in the order of the calls;
what a layer does inside is never cut. A cut is named by the layer that comes after it:
what crosses is that layer's input, so an activation or a pooling in between belongs to
the part before. The parts have disjoint parameters and, one after another, compute
what the whole computes.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.extend.core import Literal

from fedjax_comp import checks
from fedjax_comp.base import Examples, PyTree, Task
from fedjax_comp.keys import make_key
from fedjax_comp.models.network import check_plain
from fedjax_comp.models.task import classification


class Part(NamedTuple):
    """The layers between two cuts.

    Attributes:
      names: of the layers; the part's parameters are those of the model with a name
        among them.
      apply: `(params, [B, ...]) -> [B, ...]`, from what crosses the cut before it to
        what crosses the cut behind it.
    """

    names: tuple[str, ...]
    apply: Callable[[PyTree, jax.Array], jax.Array]


class SplitTask(NamedTuple):
    """A classifier whose parts run in different places.

    Attributes:
      task: the whole of it, for those who hold all of it.
      parts: the parts, in order. The first takes inputs as they are stored.
      loss: `(logits, labels, mask[B]) -> scalar`, mean over the unmasked examples.
      num_classes: labels are in `[0, num_classes)`.
    """

    task: Task
    parts: tuple[Part, ...]
    loss: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
    num_classes: int


class _Call(NamedTuple):
    name: str
    inputs: jax.ShapeDtypeStruct
    outputs: jax.ShapeDtypeStruct


class _Logits(nn.Module):
    """A model whose inputs are the logits."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x


def cuts(
    module: nn.Module,
    *,
    input_shape: tuple[int, ...],
    input_dtype: jax.typing.DTypeLike = jnp.float32,
) -> tuple[str, ...]:
    """The layers before which a model may be cut, in order.

    Args:
      module: maps `[B, *input_shape]` to logits.
      input_shape: of one example, without `B`.
      input_dtype: what the module takes.

    Returns:
      Their names, those of the module's parameters.

    Raises:
      ValueError: if the module has parameters of its own, outside of any layer, or
        running statistics.

    >>> from fedjax_comp.models.cnn import cnn
    >>> cuts(cnn()(10), input_shape=(28, 28, 1))
    ('Conv_1', 'Dense_0', 'Dense_1')
    """
    _, calls = _trace(module, jax.ShapeDtypeStruct((1, *input_shape), input_dtype))
    return _names_of_cuts(calls)


def split(
    module: nn.Module,
    cuts: Sequence[str],
    *,
    input_shape: tuple[int, ...],
    input_dtype: jax.typing.DTypeLike = jnp.float32,
) -> tuple[Part, ...]:
    """Cuts a model before each of the layers named.

    Args:
      module: maps `[B, *input_shape]` to logits.
      cuts: names of layers, in the order in which they are called, at least one.
      input_shape: of one example, without `B`.
      input_dtype: what the module takes.

    Returns:
      One part more than there are cuts.

    Raises:
      ValueError: for a cut that does not exist, naming those that do, for cuts out of
        order, where a layer or a value of one part is used again in a later one, and
        for a model with running statistics.

    >>> from fedjax_comp.models.mlp import mlp
    >>> module = mlp(16)(10)
    >>> bottom, top = split(module, ["Dense_1"], input_shape=(8, 8))
    >>> x = jnp.ones((3, 8, 8))
    >>> params = module.init(jax.random.key(0), x)["params"]
    >>> hidden = bottom.apply({"Dense_0": params["Dense_0"]}, x)
    >>> hidden.shape, top.apply({"Dense_1": params["Dense_1"]}, hidden).shape
    ((3, 16), (3, 10))
    """
    one = jax.ShapeDtypeStruct((1, *input_shape), input_dtype)
    params, calls = _trace(module, one)
    names = [call.name for call in calls]
    there_are = _names_of_cuts(calls)
    listed = f"there are {', '.join(there_are)}" if there_are else "there is none"
    if not cuts:
        raise ValueError(f"Expected at least one cut; {listed}.")
    for cut in cuts:
        if cut not in there_are:
            raise ValueError(f"Expected cut={cut!r} to be a layer's name; {listed}.")
    edges = [0, *(names.index(cut) for cut in cuts), len(calls)]
    if any(first >= after for first, after in itertools.pairwise(edges)):
        raise ValueError(f"Expected cuts={tuple(cuts)} in the model's order; {listed}.")
    parts = []
    for start, stop in itertools.pairwise(edges):
        own = tuple(dict.fromkeys(names[start:stop]))
        again = set(own) & set(names[:start])
        if again:
            raise ValueError(
                f"Expected layers that are on one side of the cut={names[start]!r}, "
                f"got {', '.join(sorted(again))} on both."
            )
        run = functools.partial(_run, module, calls, start, stop, one)
        _check_flow(run, calls[: start + 1], params_of(own, params))
        parts.append(Part(own, functools.partial(_apply, run, calls[:start])))
    return tuple(parts)


def split_classification(
    module: nn.Module,
    cuts: Sequence[str],
    *,
    num_classes: int,
    input_shape: tuple[int, ...],
    scale: float = 1.0,
    input_dtype: jax.typing.DTypeLike = jnp.float32,
    ignore_label: int | None = None,
) -> SplitTask:
    """As `classification`, cut into parts.

    Args:
      module: maps `[B, *input_shape]` to logits.
      cuts: names of layers, as of `split`.
      num_classes: `L`.
      input_shape: of one example, without `B`.
      scale: floating inputs are multiplied by it.
      input_dtype: what the module takes.
      ignore_label: a label that is padding and never counts, or None.

    Returns:
      A `SplitTask`.

    Raises:
      ValueError: as `classification` and `split`, and for a model with dropout.

    >>> from fedjax_comp.models.mlp import mlp
    >>> digits = split_classification(
    ...     mlp(16, 16)(10), ["Dense_1"], num_classes=10, input_shape=(8, 8, 1)
    ... )
    >>> [part.names for part in digits.parts]
    [('Dense_0',), ('Dense_1', 'Dense_2')]
    """
    dtype = jnp.dtype(input_dtype)
    task = classification(
        module,
        input_shape=input_shape,
        scale=scale,
        input_dtype=dtype,
        ignore_label=ignore_label,
    )
    inputs = jax.ShapeDtypeStruct((1, *input_shape), dtype)
    check_plain("split learning", module, inputs)
    first, *rest = split(module, cuts, input_shape=input_shape, input_dtype=dtype)
    scored = classification(
        _Logits(), input_shape=(num_classes,), ignore_label=ignore_label
    )

    def from_stored(params: PyTree, x: jax.Array) -> jax.Array:
        inputs = x.astype(dtype)
        if jnp.issubdtype(dtype, jnp.floating):
            inputs = inputs * jnp.asarray(scale, dtype)
        return first.apply(params, inputs)

    def loss(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
        # Cross-entropy alone draws nothing.
        key = jax.random.key(0)
        return scored.loss({}, Examples(logits, labels), mask, key)

    parts = (Part(first.names, from_stored), *rest)
    return SplitTask(task, parts, loss, num_classes)


def params_of(names: Sequence[str], params: PyTree) -> PyTree:
    """A part's parameters among those of the whole model.

    >>> params_of(["b", "norm"], {"a": 1, "b": 2})
    {'b': 2}
    """
    return {name: params[name] for name in names if name in params}


def _names_of_cuts(calls: Sequence[_Call]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(call.name for call in calls[1:]))


def _is_layer(context: nn.module.InterceptorContext) -> bool:
    return context.method_name == "__call__" and len(context.module.path) == 1


def _trace(
    module: nn.Module, one: jax.ShapeDtypeStruct
) -> tuple[PyTree, tuple[_Call, ...]]:
    """Shapes of the parameters, and the calls of layers in their order."""
    calls: list[_Call] = []

    def note(
        call: Callable[..., jax.Array],
        arguments: tuple[jax.Array, ...],
        options: dict[str, object],
        context: nn.module.InterceptorContext,
    ) -> jax.Array:
        out = call(*arguments, **options)
        if _is_layer(context):
            name = context.module.name
            if len(arguments) != 1 or options:
                raise ValueError(f"Expected layer {name} to take one array.")
            shapes = (jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (*arguments, out))
            calls.append(_Call(str(name), *shapes))
        return out

    def init(key: jax.Array, x: jax.Array) -> PyTree:
        with nn.intercept_methods(note):
            variables = module.init(key, x)
        checks.gradients_alone("split()", variables)
        return variables["params"]

    params = jax.eval_shape(init, make_key(0), one)
    outside = set(params) - {call.name for call in calls}
    if outside:
        raise ValueError(
            "Expected all parameters in layers, so that each is on one side of a cut; "
            f"{type(module).__name__} has {', '.join(sorted(outside))} of its own."
        )
    return params, tuple(calls)


def _batch_of(like: jax.ShapeDtypeStruct, count: int) -> jax.Array:
    return jnp.zeros((count, *like.shape[1:]), like.dtype)


def _run(
    module: nn.Module,
    calls: Sequence[_Call],
    start: int,
    stop: int,
    one: jax.ShapeDtypeStruct,
    params: PyTree,
    crossing: jax.Array,
    unused: Sequence[jax.Array],
) -> jax.Array:
    """Runs the layers from `start` on, up to the input of the layer `stop`.

    The whole model is called, for what it does between its layers. The layers outside
    are not: they return values of the right shape, on which nothing depends.
    """
    captured: list[jax.Array] = []
    own = {call.name for call in calls[start:stop]}
    place = 0

    def step(
        call: Callable[..., jax.Array],
        arguments: tuple[jax.Array, ...],
        options: dict[str, object],
        context: nn.module.InterceptorContext,
    ) -> jax.Array | None:
        nonlocal place
        if not _is_layer(context):
            layer = context.module.path[:1]
            if context.method_name == "setup" and layer and layer[0] not in own:
                return None  # its parameters are elsewhere
            return call(*arguments, **options)
        at, place = place, place + 1
        if at < start:
            return unused[at]
        if at == start and start:
            return call(crossing)
        if at == stop:
            captured.append(arguments[0])
        if at >= stop:
            return _batch_of(calls[at].outputs, arguments[0].shape[0])
        return call(*arguments, **options)

    inputs = _batch_of(one, crossing.shape[0]) if start else crossing
    with nn.intercept_methods(step):
        logits = cast(jax.Array, module.apply({"params": params}, inputs))
    return captured[0] if captured else logits


def _apply(
    run: Callable[..., jax.Array],
    before: Sequence[_Call],
    params: PyTree,
    crossing: jax.Array,
) -> jax.Array:
    unused = [_batch_of(call.outputs, crossing.shape[0]) for call in before]
    return run(params, crossing, unused)


def _check_flow(
    run: Callable[..., jax.Array], calls: Sequence[_Call], params: PyTree
) -> None:
    """That nothing reaches the part of the last of `calls` but what that one takes."""
    *before, first = calls
    if not before:
        return
    unused = [call.outputs for call in before]
    traced = jax.make_jaxpr(run)(params, first.inputs, unused).jaxpr
    reached = set(traced.invars[-len(before) :])
    for equation in traced.eqns:
        if any(not isinstance(v, Literal) and v in reached for v in equation.invars):
            reached |= set(equation.outvars)
    if any(not isinstance(v, Literal) and v in reached for v in traced.outvars):
        raise ValueError(
            f"Expected a cut that all values cross; before {first.name} there is a way "
            "around it."
        )
