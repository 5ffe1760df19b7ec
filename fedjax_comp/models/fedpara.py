"""Networks whose weights are Hadamard products of two arrays of low rank.

Hyeon-Woo, Ye-Bin and Oh, "FedPara: low-rank Hadamard product for
communication-efficient federated learning", ICLR 2022, propositions 1 and 3. Only the
factors are trained and sent: `2 R (m + n)` numbers for a matrix `[m, n]` whose rank may
be up to `R^2`, where plain low-rank factors of that many numbers give at most `2 R`. A
convolution has factors for its channels alone, `2 R (I + O) + 2 H W R^2` numbers, and
both its unfoldings along channels may be of rank `R^2`.
"""

import functools
import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from fedjax_comp import checks
from fedjax_comp.models.convolution import Conv, default_conv
from fedjax_comp.models.replaced import run_replaced, with_bias
from fedjax_comp.models.strided import strided
from fedjax_comp.models.task import ModelFn


def hadamard_product(
    x1: jax.Array, y1: jax.Array, x2: jax.Array, y2: jax.Array
) -> jax.Array:
    """`W = (X1 Y1') * (X2 Y2')`, elementwise, of rank at most `R^2`.

    Args:
      x1: `[m, R]`.
      y1: `[n, R]`.
      x2: `[m, R]`.
      y2: `[n, R]`.

    Returns:
      `[m, n]`.

    >>> ones = jnp.ones((2, 3))
    >>> hadamard_product(ones, ones, ones, 2 * ones).tolist()
    [[18.0, 18.0], [18.0, 18.0]]
    """
    return (x1 @ y1.T) * (x2 @ y2.T)


def hadamard_kernel(
    t1: jax.Array,
    x1: jax.Array,
    y1: jax.Array,
    t2: jax.Array,
    x2: jax.Array,
    y2: jax.Array,
) -> jax.Array:
    """`W = (T1 x_I X1 x_O Y1) * (T2 x_I X2 x_O Y2)`, products along the channels.

    Args:
      t1: `[H, W, R, R]`.
      x1: of the channels in, `[I, R]`.
      y1: of the channels out, `[O, R]`.
      t2: `[H, W, R, R]`.
      x2: `[I, R]`.
      y2: `[O, R]`.

    Returns:
      `[H, W, I, O]`.

    >>> t, x, y = jnp.ones((3, 3, 1, 1)), jnp.ones((2, 1)), jnp.ones((5, 1))
    >>> hadamard_kernel(t, x, y, 2 * t, x, y).shape
    (3, 3, 2, 5)
    """
    return _tucker(t1, x1, y1) * _tucker(t2, x2, y2)


def _tucker(t: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.einsum("hwrs,ir,os->hwio", t, x, y)


class FedPara(nn.Module):
    """A network with FedPara's weights wherever they are fewer numbers.

    Parameters lie where those of `dense` do; a layer has `x1`, `y1`, `x2` and `y2` in
    place of its `kernel`, and a convolution `t1` and `t2` besides.

    Attributes:
      dense: the network as it was.
      rank: `R`, at least 1.
    """

    dense: nn.Module
    rank: int

    @property
    def num_classes(self) -> int:
        """`L`, as the network has it."""
        return int(self.dense.num_classes)  # type: ignore[attr-defined]

    def setup(self) -> None:
        """Gives this module the network's own scope: its paths and parameters."""
        nn.share_scope(self, self.dense)

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps what the network maps to what it maps it to."""

        def replace(layer: nn.Module, path: str, x: jax.Array) -> jax.Array | None:
            del path
            if isinstance(layer, Conv):
                return _conv(layer, self.rank, x)
            return _dense(layer, self.rank, x) if isinstance(layer, nn.Dense) else None

        return run_replaced(self, self.dense, replace, x, train=train)


def _dense(layer: nn.Dense, rank: int, x: jax.Array) -> jax.Array | None:
    m, n = x.shape[-1], layer.features
    if 2 * rank * (m + n) >= m * n:
        return None
    # An entry of X Y' has variance R s^4 for factors of deviation s, and W the square
    # of that: s is such that W has He's variance 2 / m.
    init = nn.initializers.normal(((2 / m) ** 0.5 / rank) ** 0.25)
    sizes = {"x1": m, "y1": n, "x2": m, "y2": n}
    factors = [
        layer.param(name, init, (size, rank), jnp.float32)
        for name, size in sizes.items()
    ]
    return with_bias(layer, x @ hadamard_product(*factors))


def _conv(layer: Conv, rank: int, x: jax.Array) -> jax.Array | None:
    taps, m, n = math.prod(layer.kernel_size), x.shape[-1], layer.features
    if 2 * rank * (m + n) + 2 * taps * rank**2 >= taps * m * n:
        return None
    # As above, with R^2 s^6 for an entry of T x X x Y.
    deviation = ((2 / (taps * m)) ** 0.5 / rank**2) ** (1 / 6)
    init = nn.initializers.normal(deviation)
    shapes = {"t": (*layer.kernel_size, rank, rank), "x": (m, rank), "y": (n, rank)}
    kernel = hadamard_kernel(
        *(
            layer.param(f"{name}{i}", init, shape, jnp.float32)
            for i in (1, 2)
            for name, shape in shapes.items()
        )
    )
    convolve = layer.convolve or default_conv()
    return with_bias(layer, strided(convolve, x, kernel, layer.strides))


def fed_para(model: ModelFn, *, rank: int) -> ModelFn:
    """A network of `Conv` and `nn.Dense` layers with FedPara's weights.

    Layers stay as they are where the factors would not be fewer numbers.

    Args:
      model: such as `mlp(200, 200)`, `cnn()`, `vgg()` or `resnet()`.
      rank: `R` of the factors, at least 1. Full rank of `[m, n]` is possible from
        `R^2 >= min(m, n)` on.

    Returns:
      `(num_classes) -> module` from what `model` maps to logits.

    Raises:
      ValueError: for a rank below one, or a `model` that is not a model.

    >>> from fedjax_comp.models import mlp
    >>> module = fed_para(mlp(200, 200), rank=15)(10)
    >>> params = module.init(jax.random.key(0), jnp.zeros((1, 784)))
    >>> sum(leaf.size for leaf in jax.tree.leaves(params))
    43930
    """
    checks.integer("rank", rank, minimum=1)
    if not callable(model):
        raise ValueError(f"Expected model={model!r} to be a model, such as cnn().")
    return functools.partial(_fed_para, model, rank)


def _fed_para(model: ModelFn, rank: int, num_classes: int) -> FedPara:
    return FedPara(model(num_classes), rank)
