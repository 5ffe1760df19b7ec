"""Units left out at random in training.

Srivastava et al. 2014, "Dropout: a simple way to prevent neural networks from
overfitting", JMLR 15: each unit is kept with probability `1 - p` and then divided by
it, so that nothing is to be done in evaluation.
"""

import jax
from flax import linen as nn

from fedjax_comp import checks


def dropped(x: jax.Array, rate: float, train: bool) -> jax.Array:
    """`x` with each number left out with a chance of `rate`, in training.

    Args:
      x: `[...]`.
      rate: in [0, 1). With 0 nothing is drawn.
      train: whether it is training.
    """
    if rate == 0:
        return x
    out: jax.Array = nn.Dropout(rate, deterministic=not train)(x)
    return out


def check_dropout(rate: float) -> None:
    """Refuses what is no chance to be left out.

    >>> check_dropout(1.5)
    Traceback (most recent call last):
    ...
    ValueError: Expected dropout=1.5 in [0, 1).
    """
    checks.number("dropout", rate, minimum=0, below=1)
