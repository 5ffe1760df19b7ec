"""Networks of low-rank layers as networks of thin layers.

A dense layer `[m, n]` of rank `r` becomes two, `[m, r]` and `[r, n]`. A convolution
`[H, W, I, O]` becomes, in the channel scheme, one of `H x W` to `r` channels and one of
`1 x 1` (Denton et al., "Exploiting linear structure within convolutional networks for
efficient evaluation", 2014; Zhang et al., "Accelerating very deep convolutional
networks", 2016), in the spatial scheme one of `H x 1` to `r` channels and one of
`1 x W` (Jaderberg, Vedaldi and Zisserman, "Speeding up convolutional neural networks
with low rank expansions", 2014). A layer stays as it is where its factors would not be
fewer numbers, `r (m + n) >= m n`; then they would be no less work, either.

This gives the compact model that federated dual-side low-rank compression ends with
(`fedjax_comp.algorithms.fed_dlr`). It works on any network of the package's `Conv` and
flax's `Dense` layers.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from fedjax_comp import checks
from fedjax_comp.base import PyTree
from fedjax_comp.models.convolution import Conv, default_conv
from fedjax_comp.models.replaced import run_replaced, with_bias
from fedjax_comp.models.strided import strided
from fedjax_comp.rank import rank_for_energy

SCHEMES = ("channel", "spatial")


class Compact(NamedTuple):
    """A module and its parameters."""

    module: nn.Module
    params: PyTree


class Factorized(nn.Module):
    """A network of which some layers run as two thin ones.

    Parameters lie where those of `network` do; a factored layer has `left` and `right`
    in place of its `kernel`.

    Attributes:
      network: the network as it was.
      ranks: the factored layers, by path (`"Block_0/Conv_1"`), and their ranks.
      scheme: of convolutions, "channel" or "spatial".
    """

    network: nn.Module
    ranks: tuple[tuple[str, int], ...]
    scheme: str = "channel"

    def setup(self) -> None:
        """Gives this module the network's own scope: its paths and parameters."""
        nn.share_scope(self, self.network)

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps what the network maps to what it maps it to."""
        ranks = dict(self.ranks)

        def replace(layer: nn.Module, path: str, x: jax.Array) -> jax.Array | None:
            rank = ranks.get(path)
            if rank is None:
                return None
            if isinstance(layer, Conv):
                return _thin_conv(layer, rank, self.scheme, x)
            return _thin_dense(layer, rank, x) if isinstance(layer, nn.Dense) else None

        return run_replaced(self, self.network, replace, x, train=train, only=ranks)


def _thin_dense(layer: nn.Dense, rank: int, x: jax.Array) -> jax.Array:
    init = nn.initializers.lecun_normal()
    left = layer.param("left", init, (x.shape[-1], rank), jnp.float32)
    right = layer.param("right", init, (rank, layer.features), jnp.float32)
    return with_bias(layer, x @ left @ right)


def _thin_conv(layer: Conv, rank: int, scheme: str, x: jax.Array) -> jax.Array:
    init = nn.initializers.lecun_normal()
    height, width = layer.kernel_size
    convolve = layer.convolve or default_conv()
    if scheme == "channel":
        left = layer.param(
            "left", init, (height, width, x.shape[-1], rank), jnp.float32
        )
        right = layer.param("right", init, (1, 1, rank, layer.features), jnp.float32)
        thin = strided(convolve, x, left, layer.strides)
        # A product of matrices, which a convolution of 1x1 is not told to be.
        return with_bias(layer, thin @ right[0, 0])
    left = layer.param("left", init, (height, 1, x.shape[-1], rank), jnp.float32)
    right = layer.param("right", init, (1, width, rank, layer.features), jnp.float32)
    thin = strided(convolve, x, left, (layer.strides[0], 1))
    return with_bias(layer, strided(convolve, thin, right, (1, layer.strides[1])))


def factorize(
    module: nn.Module,
    params: PyTree,
    *,
    energy: float,
    max_rank: int | None = None,
    scheme: str = "channel",
) -> Compact:
    """The network with thin layers wherever they are fewer numbers.

        r = min{r : sum_{i <= r} s_i^2 >= energy * sum_i s_i^2},
        kernel ~ left right, the truncated SVD with sqrt(s) to each.

    Args:
      module: a network of `Conv` and `nn.Dense` layers, such as `cnn()(10)`; layers
        whose `kernel` has not two or four axes, or that have none, stay as they are.
      params: its parameters.
      energy: in (0, 1]; what a layer keeps of its squared singular values.
      max_rank: the most a factored layer may have; None for no bound.
      scheme: of convolutions, "channel" or "spatial".

    Returns:
      A `Factorized` module and its parameters.

    Raises:
      ValueError: when an argument is none of the above, `module` is factorized
        already, or `params` come with running statistics or inside flax's
        `{"params": ...}`; from the module, for a factored layer that is neither of the
        two.

    >>> from fedjax_comp.models import mlp
    >>> module, x = mlp(64)(10), jnp.ones((1, 64))
    >>> params = module.init(jax.random.key(0), x)["params"]
    >>> compact = factorize(module, params, energy=0.5)
    >>> compact.params["Dense_0"]["left"].shape[0]
    64
    >>> compact.module.apply({"params": compact.params}, x).shape
    (1, 10)
    """
    if not 0 < energy <= 1:
        raise ValueError(f"Expected energy={energy} in (0, 1].")
    if max_rank is not None and max_rank < 1:
        raise ValueError(f"Expected max_rank={max_rank} >= 1.")
    if scheme not in SCHEMES:
        raise ValueError(f"Expected scheme={scheme!r} to be one of {SCHEMES}.")
    if isinstance(module, Factorized):
        raise ValueError(
            "Expected a network that is not factorized yet: factorize(module.network, "
            "...) of its dense parameters."
        )
    checks.gradients_alone("factorize()", params)
    if "params" in params:
        raise ValueError(
            'Expected the layers themselves as params, got {"params": ...}: give '
            'params["params"].'
        )
    ranks: list[tuple[str, int]] = []

    def walk(node: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
        made = dict(node)
        for name, below in node.items():
            if isinstance(below, Mapping):
                made[name] = walk(below, (*path, name))
        kernel = node.get("kernel")
        if kernel is None or np.ndim(kernel) not in (2, 4):
            return made
        factors = _factors(np.asarray(kernel), energy, max_rank, scheme)
        if factors is not None:
            del made["kernel"]
            made["left"], made["right"] = map(jnp.asarray, factors)
            ranks.append(("/".join(path), factors[1].shape[-2]))
        return made

    compact = walk(params, ())
    return Compact(Factorized(module, tuple(ranks), scheme), compact)


def _factors(
    kernel: np.ndarray, energy: float, max_rank: int | None, scheme: str
) -> tuple[np.ndarray, np.ndarray] | None:
    """Both factors in the shapes of their layers; None when dense is not more."""
    matrix = kernel.astype(np.float64)
    spatial = kernel.ndim == 4 and scheme == "spatial"
    if spatial:
        height, width, inputs, outputs = kernel.shape
        matrix = matrix.transpose(0, 2, 1, 3).reshape(height * inputs, width * outputs)
    matrix = matrix.reshape(-1, matrix.shape[-1])
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    rank = int(rank_for_energy(s, energy))
    rank = max(1, rank if max_rank is None else min(rank, max_rank))
    if rank * sum(matrix.shape) >= matrix.size:
        return None
    root = np.sqrt(s[:rank])
    left = (u[:, :rank] * root).astype(kernel.dtype)
    right = (root[:, None] * v[:rank]).astype(kernel.dtype)
    if spatial:
        shapes = (height, 1, inputs, rank), (rank, 1, width, outputs)
        return left.reshape(shapes[0]), right.reshape(shapes[1]).transpose(1, 2, 0, 3)
    if kernel.ndim == 4:
        return left.reshape(*kernel.shape[:3], rank), right[None, None]
    return left, right
