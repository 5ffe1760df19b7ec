"""What training costs: XLA's count of one batch's loss-gradient.

The count is of the floating-point operations of `grad(loss)` of one local batch,
divided by its examples: forward and backward, every use of a weight. Dense layers come
to a little less than the rule of thumb `6 n` an example (nobody needs the gradient of
the inputs), convolutions and recurrences, whose weights are used many times, to several
times that. The count leaves out the optimizer's own step, memory traffic, and what an
algorithm does beside that gradient.
"""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, jaxpr_as_fun

from fedjax_comp.base import Examples, PyTree, Task


def gradient_flops(
    task: Task, params: PyTree, examples: Examples, *, batch_size: int
) -> float:
    """FLOPs of training on one example: `FLOPs(grad loss(batch)) / B`.

    Args:
      task: whose loss is trained on.
      params: its parameters, arrays or `jax.ShapeDtypeStruct`.
      examples: any examples of it; only their shapes and dtypes are read.
      batch_size: `B` of a local batch, at least 1.

    Returns:
      Floating-point operations.

    Raises:
      ValueError: for an empty batch.

    >>> from fedjax_comp.models import classification, linear
    >>> task = classification(linear()(10), input_shape=(1000,))
    >>> like = Examples(jnp.ones((1, 1000)), jnp.zeros(1, jnp.int32))
    >>> each = gradient_flops(task, task.init(jax.random.key(0)), like, batch_size=50)
    >>> 1 < each / (2 * 2 * 1000 * 10) < 1.1  # forward and backward to the weights
    True
    """
    if batch_size < 1:
        raise ValueError(f"Expected batch_size={batch_size} >= 1.")
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((batch_size, *x.shape[1:]), x.dtype), examples
    )
    mask = jax.ShapeDtypeStruct((batch_size,), jnp.bool_)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return program_flops(jax.grad(task.loss), params, batch, mask, key) / batch_size


def program_flops(function: Callable, *like: PyTree) -> float:
    """FLOPs of a function by XLA's analysis, loops multiplied out.

    XLA counts the body of a loop once. `lax.scan` has a known length, by which its body
    is multiplied here; a `while_loop`, whose length depends on values, counts once.

    Args:
      function: of arrays.
      like: its arguments, arrays or `jax.ShapeDtypeStruct`.

    >>> x = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    >>> looped = lambda x: jax.lax.scan(lambda y, _: (y @ x, None), x, length=7)[0]
    >>> round(program_flops(looped, x) / (2 * 64**3))
    7
    """
    return _flops(jax.make_jaxpr(function)(*like))


def _flops(program: ClosedJaxpr) -> float:
    total = _counted_once(program)
    for loop in _scans(program.jaxpr):
        body = loop.params["jaxpr"]
        total += loop.params["length"] * _flops(body) - _counted_once(body)
    return total


def _counted_once(program: ClosedJaxpr) -> float:
    lowered = jax.jit(jaxpr_as_fun(program)).lower(*program.in_avals)
    analysis = lowered.cost_analysis() or {}
    return max(0.0, float(analysis.get("flops", 0.0)))


def _scans(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
    """The loops of a program, but for those inside other loops."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            yield equation
            continue
        for value in equation.params.values():
            for part in value if isinstance(value, tuple | list) else (value,):
                if isinstance(part, ClosedJaxpr):
                    yield from _scans(part.jaxpr)
                elif isinstance(part, Jaxpr):
                    yield from _scans(part)
