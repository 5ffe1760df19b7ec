"""The names that flags may use in their Python expressions."""

from collections.abc import Mapping
from typing import Any

import optax

from fedjax_comp import compress, data, execution, models
from fedjax_comp.expression import parse

OPTIMIZERS = (
    "adabelief adadelta adagrad adam adamw chain clip clip_by_global_norm "
    "cosine_decay_schedule exponential_decay lamb lion "
    "piecewise_constant_schedule rmsprop sgd trace warmup_cosine_decay_schedule yogi"
).split()

NAMES: Mapping[str, Mapping[str, object]] = {
    "client_optimizer": {n: getattr(optax, n) for n in OPTIMIZERS},
    "server_optimizer": {n: getattr(optax, n) for n in OPTIMIZERS},
    "uplink": {n: getattr(compress, n) for n in compress.__all__ if n.islower()},
    "downlink": {n: getattr(compress, n) for n in compress.__all__ if n.islower()},
    "execution": {
        n: getattr(execution, n)
        for n in ("auto", "chunked", "scanned", "sharded", "vmapped")
    },
    "partition": {
        n: getattr(data, n) for n in ("dirichlet", "iid", "natural", "shards")
    },
    "model": {
        n: getattr(models, n)
        for n in models.__all__
        if n not in ("ModelFn", "classification")
    },
}


def build(flag: str, text: str) -> Any:
    """The object that a flag's expression describes.

    Args:
      flag: the flag's name, a key of `NAMES`.
      text: the expression, always a call, such as `top_k(0.01)`.

    Returns:
      What the call returns.

    Raises:
      fedjax_comp.expression.ExpressionError: one line with the position and the nearest
        valid name.
    """
    return parse(text, NAMES[flag], flag=f"--{flag}")
