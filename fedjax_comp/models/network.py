"""A model as two pure functions, whichever of flax's two libraries it is written in.

A module that draws random numbers in training, as dropout does, is told in one of two
ways that it is training:

* `flax.linen`: by an argument `train=False` of `__call__`; it draws by the key
  "dropout", as `nn.Dropout(0.5, deterministic=not train)` does;
* `flax.nnx`: by `module.train()` and `module.eval()`, which `nnx.Dropout` heeds.

Running statistics, such as those of batch normalisation, are kept beside the parameters
as `{"params": ..., "batch_stats": ...}`. They are sent with the model and averaged like
it, whatever the server's optimizer does with the rest; a variance that lossy messages
brought below zero is read as zero. Where clients' data are skewed, such a mean
describes no client (see `normalization`): `fed_per(personal="batch_stats")` leaves each
its own.
"""

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.errors import InvalidRngError

from fedjax_comp import checks
from fedjax_comp.base import STATISTICS, Examples, PyTree, has_statistics
from fedjax_comp.tree import where

if TYPE_CHECKING:
    from flax import nnx


class Network(NamedTuple):
    """A model as two pure functions.

    Attributes:
      init: `(key, inputs[B, ...]) -> params`; of the inputs shape and dtype count.
      apply: `(params, inputs[B, ...], key) -> outputs[B, ...]`. The key is what it
        draws by in training; None evaluates, and draws nothing.
      observe: `(params, inputs[B, ...], key) -> params` with the running statistics
        after a step of training on the inputs; None where there can be none.
    """

    init: Callable[[jax.Array, jax.Array], PyTree]
    apply: Callable[[PyTree, jax.Array, jax.Array | None], jax.Array]
    observe: Callable[[PyTree, jax.Array, jax.Array], PyTree] | None = None


class InputsOf(Protocol):
    """`(params, examples, mask[B], training=...) -> [B, ...]`: what a model sees."""

    def __call__(
        self, params: PyTree, examples: Examples, mask: jax.Array, *, training: bool
    ) -> jax.Array:
        """What the model sees of a batch."""
        ...


def filled(inputs: jax.Array, mask: jax.Array) -> jax.Array:
    """A batch whose masked rows are filled with the rows that count, in turn.

    So that a batch's statistics are of its examples, and of no padding.

    Args:
      inputs: `[B, ...]`.
      mask: bool `[B]`.

    Returns:
      `[B, ...]`; without a row that counts all are the first.

    >>> mask = jnp.array([False, True, False, True, False])
    >>> filled(jnp.arange(5), mask).tolist()
    [1, 1, 3, 3, 1]
    """
    places = jnp.arange(mask.shape[0], dtype=jnp.int32)
    count = jnp.maximum(mask.sum(dtype=jnp.int32), 1)
    counting = jnp.argsort(~mask).astype(jnp.int32)
    turn = jnp.cumsum(~mask, dtype=jnp.int32) - 1
    return inputs[jnp.where(mask, places, counting[turn % count])]


def observation(
    network: Network, inputs_of: InputsOf
) -> Callable[[PyTree, PyTree, Examples, jax.Array, jax.Array], PyTree]:
    """`Task.observe` of a task whose model is `network`.

    Args:
      network: the model.
      inputs_of: what it sees of a batch.
    """

    def observe(
        before: PyTree,
        after: PyTree,
        examples: Examples,
        mask: jax.Array,
        key: jax.Array,
    ) -> PyTree:
        if network.observe is None or not has_statistics(before):
            return after
        inputs = inputs_of(before, examples, mask, training=True)
        seen = network.observe(before, inputs, key)[STATISTICS]
        return {**after, STATISTICS: where(mask.any(), seen, before[STATISTICS])}

    return observe


def network_of(model: nn.Module | Network) -> Network:
    """A module of `flax.linen` or a `Network`, as one.

    Raises:
      ValueError: for anything else, such as a factory of this package.
    """
    if isinstance(model, nn.Module):
        return of_linen(model)
    if not isinstance(model, Network):
        raise ValueError(
            f"Expected model as a flax.linen module or a Network, not {model!r}; a "
            "model of this package takes its number of classes: mlp(200, 200)(10)."
        )
    return model


def of_linen(module: nn.Module) -> Network:
    """A `flax.linen` module.

    Args:
      module: maps `[B, ...]` to outputs; with an argument `train` it may draw.

    Returns:
      A `Network` whose `params` are the module's.

    Raises:
      ValueError: from `init`, if it draws and has no argument `train`, draws by another
        key than "dropout", or holds more than `params` and `batch_stats`.

    >>> import jax.numpy as jnp
    >>> network = of_linen(nn.Dense(3))
    >>> params = network.init(jax.random.key(0), jnp.zeros((1, 2)))
    >>> network.apply(params, jnp.ones((5, 2)), None).shape
    (5, 3)
    """
    told = takes_train(module)

    def init(key: jax.Array, inputs: jax.Array) -> PyTree:
        variables = module.init(key, inputs)
        others = sorted(set(variables) - {"params", STATISTICS})
        # A module without parameters has no such collection.
        own = variables.get("params", {})
        params = {"params": own, STATISTICS: variables.get(STATISTICS)}
        params = params if STATISTICS in variables else own
        try:
            jax.eval_shape(
                lambda kept: module.apply(kept, inputs, mutable=True), variables
            )
            if told and not others:
                jax.eval_shape(apply, params, inputs, key)
        except InvalidRngError as error:
            raise ValueError(
                f"Expected a {type(module).__name__} that draws nothing but dropout, "
                "and that only in training: give its __call__ an argument train=False "
                "and its Dropout deterministic=not train."
            ) from error
        if others:
            raise ValueError(
                f"Expected a module with nothing but params and {STATISTICS}, got "
                f"{', '.join(others)} in it: what else it keeps is not passed on."
            )
        if has_statistics(params) and not told:
            raise ValueError(
                f"Expected a {type(module).__name__} that is told when it trains: give "
                "its __call__ an argument train=False and its BatchNorm "
                "use_running_average=not train."
            )
        return params

    def trained(
        params: PyTree, inputs: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, PyTree]:
        return cast(
            tuple[jax.Array, PyTree],
            module.apply(
                _collections(params),
                inputs,
                train=True,
                rngs={"dropout": key},
                mutable=[STATISTICS],
            ),
        )

    def apply(params: PyTree, inputs: jax.Array, key: jax.Array | None) -> jax.Array:
        if not told or key is None:
            return cast(jax.Array, module.apply(_collections(params), inputs))
        return trained(params, inputs, key)[0]

    def observe(params: PyTree, inputs: jax.Array, key: jax.Array) -> PyTree:
        if not has_statistics(params):
            return params
        return {**params, **trained(params, inputs, key)[1]}

    return Network(init, apply, observe if told else None)


def _collections(params: PyTree) -> dict[str, PyTree]:
    """A module's variables, with variances as far as they can be any."""
    if not has_statistics(params):
        return {"params": params}

    def as_can_be(path: jax.tree_util.KeyPath, x: jax.Array) -> jax.Array:
        name = path[-1]
        is_variance = isinstance(name, jax.tree_util.DictKey) and name.key == "var"
        return jnp.maximum(x, 0) if is_variance else x

    return {
        **params,
        STATISTICS: jax.tree.map_with_path(as_can_be, params[STATISTICS]),
    }


def takes_train(module: nn.Module) -> bool:
    """Whether a `flax.linen` module is told that it trains."""
    return "train" in inspect.signature(type(module).__call__).parameters


def check_plain(what: str, module: nn.Module, inputs: jax.ShapeDtypeStruct) -> None:
    """Refuses a module that must be told that it trains where nothing tells it.

    Args:
      what: whose model it is, for the message.
      module: maps inputs to outputs.
      inputs: their shape and dtype.

    Raises:
      ValueError: when it keeps running statistics, or would draw in training.
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    checks.gradients_alone(what, jax.eval_shape(module.init, key, inputs))
    if not takes_train(module):
        return

    def train(key: jax.Array, inputs: jax.Array) -> PyTree:
        variables = module.init(key, inputs)
        return module.apply({**variables}, inputs, train=True)

    try:
        jax.eval_shape(train, key, inputs)
    except InvalidRngError as error:
        raise ValueError(
            f"Expected a model without dropout for {what}, which draws nothing in "
            "training: leave dropout out."
        ) from error


def of_nnx(make: Callable[["nnx.Rngs"], "nnx.Module"]) -> Network:
    """A `flax.nnx` module, by the function that makes one.

    The module is made anew in every trace, where its first parameters are never used
    and XLA leaves them out.

    Args:
      make: `(rngs) -> module`, such as `lambda rngs: nnx.Linear(2, 3, rngs=rngs)`; the
        streams of `rngs` are "params" and "dropout".

    Returns:
      A `Network` whose `params` are the module's `nnx.Param`, as a nest of dicts, and
      its `nnx.BatchStat` where it has any.

    Raises:
      ValueError: from `init`, if it keeps anything else.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> network = of_nnx(lambda rngs: nnx.Linear(2, 3, rngs=rngs))
    >>> params = network.init(jax.random.key(0), jnp.zeros((1, 2)))
    >>> sorted(params), network.apply(params, jnp.ones((5, 2)), None).shape
    (['bias', 'kernel'], (5, 3))
    """
    from flax import nnx  # Half a second, and most models are of linen.

    def init(key: jax.Array, inputs: jax.Array) -> PyTree:
        del inputs
        module = make(nnx.Rngs(params=key, dropout=key))
        params, statistics, _, others = nnx.state(
            module, nnx.Param, nnx.BatchStat, nnx.RngState, ...
        )
        if jax.tree.leaves(others):
            kinds = sorted({type(x).__name__ for _, x in nnx.to_flat_state(others)})
            raise ValueError(
                "Expected a module with nothing but Param and BatchStat, got "
                f"{', '.join(kinds)} in it: what else it keeps is not passed on."
            )
        own = nnx.to_pure_dict(params)
        if not jax.tree.leaves(statistics):
            return own
        return {"params": own, STATISTICS: nnx.to_pure_dict(statistics)}

    def build(params: PyTree, key: jax.Array | None) -> "nnx.Module":
        module = make(nnx.Rngs(params=0, dropout=0 if key is None else key))
        for kept in _collections(params).values():
            nnx.update(module, kept)
        (module.eval if key is None else module.train)()
        return module

    def apply(params: PyTree, inputs: jax.Array, key: jax.Array | None) -> jax.Array:
        return cast(jax.Array, build(params, key)(inputs))

    def observe(params: PyTree, inputs: jax.Array, key: jax.Array) -> PyTree:
        if not has_statistics(params):
            return params
        module = build(params, key)
        module(inputs)
        now = nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))
        return {**params, STATISTICS: now}

    return Network(init, apply, observe)
