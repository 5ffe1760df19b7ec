"""A model as two pure functions, whichever of flax's two libraries it is written in.

A module that draws in training, as dropout does, says how it is told that it trains:

* `flax.linen`: by an argument `train=False` of `__call__`; it draws by the key
  "dropout", as `nn.Dropout(0.5, deterministic=not train)` does;
* `flax.nnx`: by `module.train()` and `module.eval()`, which `nnx.Dropout` heeds.

Nothing but parameters is kept: running statistics of batch normalisation would have to
stay with each client or be averaged, and neither is done here.
"""

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, cast

import jax
from flax import linen as nn
from flax.errors import InvalidRngError

from fedjax_comp.base import PyTree

if TYPE_CHECKING:
    from flax import nnx


class Network(NamedTuple):
    """A model as two pure functions.

    Attributes:
      init: `(key, inputs[B, ...]) -> params`; of the inputs shape and dtype count.
      apply: `(params, inputs[B, ...], key) -> outputs[B, ...]`. The key is what it
        draws by in training; None evaluates, and draws nothing.
    """

    init: Callable[[jax.Array, jax.Array], PyTree]
    apply: Callable[[PyTree, jax.Array, jax.Array | None], jax.Array]


def of_linen(module: nn.Module) -> Network:
    """A `flax.linen` module.

    Args:
      module: maps `[B, ...]` to outputs; with an argument `train` it may draw.

    Returns:
      A `Network` whose `params` are the module's.

    Raises:
      ValueError: from `init`, if it draws and has no argument `train`, draws by another
        key than "dropout", or holds more than `params`.

    >>> import jax.numpy as jnp
    >>> network = of_linen(nn.Dense(3))
    >>> params = network.init(jax.random.key(0), jnp.zeros((1, 2)))
    >>> network.apply(params, jnp.ones((5, 2)), None).shape
    (5, 3)
    """
    told = takes_train(module)

    def init(key: jax.Array, inputs: jax.Array) -> PyTree:
        variables = module.init(key, inputs)
        others = sorted(set(variables) - {"params"})
        try:
            jax.eval_shape(
                lambda kept: module.apply(kept, inputs, mutable=True), variables
            )
            if told and not others:
                jax.eval_shape(apply, variables.get("params", {}), inputs, key)
        except InvalidRngError as error:
            raise ValueError(
                f"Expected a {type(module).__name__} that draws nothing but dropout, "
                "and that only in training: give its __call__ an argument train=False "
                "and its Dropout deterministic=not train."
            ) from error
        if others:
            raise ValueError(
                f"Expected a module with nothing but params, got {', '.join(others)} "
                "in it, as BatchNorm keeps: use GroupNorm or LayerNorm instead."
            )
        # A module without parameters has no such collection.
        return variables.get("params", {})

    def apply(params: PyTree, inputs: jax.Array, key: jax.Array | None) -> jax.Array:
        variables = {"params": params}
        if not told or key is None:
            return cast(jax.Array, module.apply(variables, inputs))
        drawn = module.apply(variables, inputs, train=True, rngs={"dropout": key})
        return cast(jax.Array, drawn)

    return Network(init, apply)


def takes_train(module: nn.Module) -> bool:
    """Whether a `flax.linen` module is told that it trains."""
    return "train" in inspect.signature(type(module).__call__).parameters


def check_drawless(what: str, module: nn.Module, inputs: jax.ShapeDtypeStruct) -> None:
    """Refuses a module with dropout where nothing tells it that it trains.

    Args:
      what: whose model it is, for the message.
      module: maps inputs to outputs.
      inputs: their shape and dtype.

    Raises:
      ValueError: when it would draw in training.
    """
    if not takes_train(module):
        return

    def train(key: jax.Array, inputs: jax.Array) -> PyTree:
        variables = module.init(key, inputs)
        return module.apply({**variables}, inputs, train=True)

    try:
        jax.eval_shape(train, jax.eval_shape(lambda: jax.random.key(0)), inputs)
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
      A `Network` whose `params` are the module's `nnx.Param`, as a nest of dicts.

    Raises:
      ValueError: from `init`, if it keeps anything else, as `nnx.BatchNorm` does.

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
        params, _, others = nnx.state(module, nnx.Param, nnx.RngState, ...)
        if jax.tree.leaves(others):
            kinds = sorted({type(x).__name__ for _, x in nnx.to_flat_state(others)})
            raise ValueError(
                f"Expected a module with nothing but Param, got {', '.join(kinds)} in "
                "it, as BatchNorm keeps: use GroupNorm or LayerNorm instead."
            )
        return nnx.to_pure_dict(params)

    def apply(params: PyTree, inputs: jax.Array, key: jax.Array | None) -> jax.Array:
        drawn = 0 if key is None else key
        module = make(nnx.Rngs(params=0, dropout=drawn))
        nnx.update(module, params)
        (module.eval if key is None else module.train)()
        return cast(jax.Array, module(inputs))

    return Network(init, apply)
