"""The factories' checks of their arguments, in one wording."""

import inspect
import math
import numbers
import operator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedjax_comp.base import (
    ClientBatches,
    Compressor,
    LinkState,
    PyTree,
    has_statistics,
)


def integer(name: str, value: Any, *, minimum: int, maximum: int | None = None) -> int:
    """`value` as an int; `ValueError` when it is not one or lies outside the range."""
    bounds = f">= {minimum}" if maximum is None else f"in [{minimum}, {maximum}]"
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"Expected {name}={value!r}, an integer {bounds}.") from None
    if isinstance(value, bool):
        raise ValueError(f"Expected {name}={value!r}, an integer {bounds}.")
    if number < minimum or (maximum is not None and number > maximum):
        raise ValueError(f"Expected {name}={value!r} {bounds}.")
    return number


def fraction(name: str, value: Any) -> float:
    """`value` as a float; `ValueError` unless it lies in (0, 1].

    >>> import numpy as np
    >>> fraction("share", np.float32(0.5))
    0.5
    """
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not 0.0 < value <= 1.0:
        raise ValueError(f"Expected {name}={value!r} in (0, 1].")
    return float(value)


def sizes(name: str, value: Any) -> tuple[int, ...]:
    """`value` as a tuple of ints; `ValueError` if it is empty or one is below 1.

    >>> sizes("widths", [3, 5])
    (3, 5)
    """
    try:
        found = tuple(map(operator.index, value))
    except TypeError:
        raise ValueError(
            f"Expected {name}={value!r} as integers, such as (32, 64)."
        ) from None
    if not found or min(found) < 1:
        raise ValueError(f"Expected {name}={value} with one entry or more, all >= 1.")
    return found


def number(name: str, value: Any, *, minimum: float, below: float) -> float:
    """`value` as a float; `ValueError` unless it lies in [minimum, below)."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not minimum <= value < below:
        raise ValueError(f"Expected {name}={value!r} in [{minimum}, {below}).")
    return float(value)


def compressor(name: str, value: Any) -> Compressor:
    """`value`; `ValueError` with the way out when it is not a Compressor."""
    if isinstance(value, Compressor):
        return value
    called = getattr(value, "__name__", None)
    way_out = f"; write it as a call: {called}(...)" if called else ""
    raise ValueError(
        f"Expected {name} to be a compressor, not {called or repr(value)}{way_out}."
    )


def takes(name: str, value: Any, count: int) -> Any:
    """`value`; `ValueError` unless it is a function of `count` positional arguments.

    >>> takes("partition", lambda a, b: a, 2)(1, 2)
    1
    """
    try:
        inspect.signature(value).bind(*[None] * count)
    except TypeError:
        called = getattr(value, "__name__", None)
        way_out = f"; write it as a call: {called}(...)" if called else ""
        some = f"{count} argument" + "s" * (count > 1)
        raise ValueError(
            f"Expected {name} as a function of {some}, not {called or repr(value)}"
            f"{way_out}."
        ) from None
    except ValueError:  # It has no signature, and nothing is known of it.
        pass
    return value


def optimizer(name: str, value: Any) -> optax.GradientTransformation:
    """`value`; `ValueError` with the way out when it is no optax transformation."""
    if isinstance(value, optax.GradientTransformation):
        return value
    called = getattr(value, "__name__", None)
    way_out = f"{called}(...)" if called else f"optax.sgd({value!r})"
    raise ValueError(
        f"Expected {name} as an optax optimizer, not {called or repr(value)}; write it "
        f"as a call: {way_out}."
    )


def floats(params: PyTree) -> None:
    """Refuses parameters that have no gradient, such as integer counters.

    >>> import numpy as np
    >>> floats({"w": np.ones(2), "step": np.int32(0)})
    Traceback (most recent call last):
    ...
    ValueError: Expected float parameters, got int32 at ['step']: they are what is \
trained; keep counters and tables in the loss.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(
                f"Expected float parameters, got {dtype} at "
                f"{jax.tree_util.keystr(path)}: they are what is trained; keep "
                "counters and tables in the loss."
            )


def memoryless(compressor: Compressor, like: PyTree, why: str) -> LinkState:
    """The state of a compressor at both ends, which has no array in it.

    Args:
      compressor: of messages that must not depend on one another.
      like: a tree of arrays, or of shapes and dtypes, as `init` takes it.
      why: what follows "Expected a compressor without memory ".

    Returns:
      `compressor.init(like)`.

    Raises:
      ValueError: when the compressor has a memory.

    >>> from fedjax_comp.compress import error_feedback, top_k
    >>> memoryless(top_k(k=1), jax.ShapeDtypeStruct((2,), "float32"), "here.")
    LinkState(sender=(), receiver=())
    >>> compressor = error_feedback(top_k(k=1))
    >>> memoryless(compressor, jax.ShapeDtypeStruct((2,), "float32"), "here.")
    Traceback (most recent call last):
    ...
    ValueError: Expected a compressor without memory here.
    """
    state = compressor.init(
        jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), like)
    )
    if jax.tree.leaves(state):
        raise ValueError(f"Expected a compressor without memory {why}")
    return state


def between(name: str, value: Any, *, above: float, at_most: float) -> float:
    """`value` as a float; `ValueError` unless it lies in (above, at_most]."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not above < value <= at_most:
        raise ValueError(f"Expected {name}={value!r} in ({above:g}, {at_most:g}].")
    return float(value)


def is_finite(value: Any) -> bool:
    """Whether `value` is a finite real number, and neither a text nor a bool.

    >>> is_finite(0.5), is_finite("0.5"), is_finite(math.inf)
    (True, False, False)
    """
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


def positive(name: str, value: Any) -> None:
    """`ValueError` unless `value` is finite and above 0."""
    if not (is_finite(value) and value > 0):
        raise ValueError(f"Expected {name}={value!r}, a finite number above 0.")


def not_negative(name: str, value: Any) -> None:
    """`ValueError` unless `value` is finite and at least 0."""
    if not (is_finite(value) and value >= 0):
        raise ValueError(f"Expected {name}={value!r}, a finite number of at least 0.")


def population(value: Any) -> int | None:
    """`value`, the number of clients, None if unknown; `ValueError` below one.

    >>> population(None), population(3)
    (None, 3)
    """
    return None if value is None else integer("population", value, minimum=1)


def fits_population(cohort_size: int, population: int | None) -> None:
    """`ValueError` for a cohort of more clients than there are.

    >>> fits_population(4, 3)
    Traceback (most recent call last):
    ...
    ValueError: Expected a cohort of at most population=3 clients, got 4.
    """
    if population is not None and cohort_size > population:
        raise ValueError(
            f"Expected a cohort of at most population={population} clients, got "
            f"{cohort_size}."
        )


def no_rates(
    what: str,
    clients: ClientBatches,
    why: str = "whose clients take no step of their own",
    instead: str = ", and give a schedule to the server's optimizer",
) -> None:
    """Refuses `ClientBatches.rate` for an algorithm that cannot apply such rates.

    Args:
      what: the algorithm.
      clients: of a round.
      why: the reason, in the words that follow the algorithm's name.
      instead: what to do beside leaving them out, if anything.

    Raises:
      ValueError: for a cohort with `ClientBatches.rate`.
    """
    if clients.rate is not None:
        raise ValueError(
            f"Expected clients without rates for {what}, {why}: leave scheduled_rates "
            f"(--client_schedule) out{instead}."
        )


def gradients_alone(what: str, params: PyTree) -> None:
    """Refuses running statistics where they would not be averaged.

    Args:
      what: what would treat them as weights, or leave them as they began.
      params: of the model.

    Raises:
      ValueError: for a model that has them.

    >>> gradients_alone("lazy_gradients()", {"params": {}, "batch_stats": {}})
    Traceback (most recent call last):
    ...
    ValueError: Expected a model without running statistics for lazy_gradients(), \
which would not average them: use GroupNorm in place of BatchNorm, or fed_avg().
    """
    if has_statistics(params):
        raise ValueError(
            f"Expected a model without running statistics for {what}, which would not "
            "average them: use GroupNorm in place of BatchNorm, or fed_avg()."
        )
