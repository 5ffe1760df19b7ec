"""Thin layers against the dense network, NumPy's ranks and counted parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from fedjax_comp import models
from fedjax_comp.base import Examples
from fedjax_comp.models.factorized import factorize

NETWORKS = {
    "mlp": (models.mlp(24, 20)(5), (8, 8, 1)),
    "cnn": (models.cnn((8, 12), hidden=20)(5), (8, 8, 1)),
    "resnet": (models.resnet(8, width=8)(5), (8, 8, 3)),
    "vgg": (models.vgg((8, 16), repeats=1, hidden=20)(5), (8, 8, 3)),
}


def _of_rank(params, rank, scheme):
    """Every kernel as a product of two random factors, as a reader would write it."""
    rng = np.random.default_rng(0)

    def product(kernel):
        if kernel.ndim < 2:
            return jnp.asarray(rng.normal(size=kernel.shape), kernel.dtype)
        shape, scale = kernel.shape, (rank * kernel.size // kernel.shape[-1]) ** -0.5
        if kernel.ndim == 4 and scheme == "spatial":
            height, width, inputs, outputs = shape
            left = rng.normal(size=(height, inputs, rank))
            right = rng.normal(size=(rank, width, outputs))
            made = np.einsum("hir,rwo->hwio", left, right)
        else:
            left = rng.normal(size=(*shape[:-1], rank))
            made = left @ rng.normal(size=(rank, shape[-1]))
        return jnp.asarray(scale * made, kernel.dtype)

    return jax.tree.map(product, params)


@pytest.mark.parametrize("scheme", ["channel", "spatial"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_low_rank_computes_the_same_in_thin_layers(name, scheme):
    module, shape = NETWORKS[name]
    x = jnp.asarray(np.random.default_rng(1).normal(size=(3, *shape)), jnp.float32)
    like = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    params = _of_rank(like, 2, scheme)
    compact = factorize(module, params, energy=1 - 1e-9, scheme=scheme)
    ranks = dict(compact.module.ranks)
    assert set(ranks.values()) == {2}
    dense = jax.jit(module.apply)({"params": params}, x)
    thin = jax.jit(compact.module.apply)({"params": compact.params}, x)
    scale = float(jnp.abs(dense).max())
    np.testing.assert_allclose(thin, dense, atol=1e-4 * scale)
    # What `init` would make is what `factorize` made.
    made = jax.eval_shape(compact.module.init, jax.random.key(0), x)["params"]
    shapes = jax.tree.map(lambda a: (a.shape, a.dtype), made)
    assert shapes == jax.tree.map(lambda a: (a.shape, a.dtype), compact.params)


def test_ranks_and_dense_layers_follow_the_rule():
    module = models.mlp(40, 6)(5)
    x = jnp.zeros((1, 30))
    params = jax.tree.map(np.array, module.init(jax.random.key(0), x)["params"])
    # 30x40 with singular values 2^-i, 40x6 of full rank, 6x5 too small for factors.
    u, _, v = np.linalg.svd(params["Dense_0"]["kernel"], full_matrices=False)
    s = 2.0 ** -np.arange(30)
    params["Dense_0"]["kernel"] = ((u * s) @ v).astype(np.float32)
    compact = factorize(module, params, energy=0.99)
    squares = s**2
    rank = next(r for r in range(30) if squares[:r].sum() >= 0.99 * squares.sum())
    assert compact.module.ranks == (("Dense_0", rank),)
    assert compact.params["Dense_0"]["left"].shape == (30, rank)
    assert compact.params["Dense_0"]["right"].shape == (rank, 40)
    assert "kernel" in compact.params["Dense_1"]
    assert "kernel" in compact.params["Dense_2"]
    error = compact.params["Dense_0"]["left"] @ compact.params["Dense_0"]["right"]
    lost = np.square(error - params["Dense_0"]["kernel"]).sum()
    np.testing.assert_allclose(lost, squares[rank:].sum(), rtol=1e-3)


def test_all_of_the_energy_is_the_dense_network_bit_for_bit():
    module, shape = NETWORKS["cnn"]
    x = jnp.asarray(np.random.default_rng(1).normal(size=(3, *shape)), jnp.float32)
    params = jax.jit(module.init)(jax.random.key(0), x)["params"]
    compact = factorize(module, params, energy=1.0)
    assert compact.module.ranks == ()
    run = jax.jit(module.apply), jax.jit(compact.module.apply)
    np.testing.assert_array_equal(*(f({"params": params}, x) for f in run))


def test_thin_layers_are_fewer_operations():
    module, shape = NETWORKS["cnn"]
    x = jnp.zeros((2, *shape))
    like = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    params = _of_rank(like, 1, "channel")
    compact = factorize(module, params, energy=1 - 1e-9)

    def flops(module, params):
        return (
            jax.jit(module.apply).lower({"params": params}, x).cost_analysis()["flops"]
        )

    # A 5x5 kernel on n x n pixels has (5 n - 6)^2 taps inside the image; the channels
    # are 1, 8 and 12, on 8x8 and on 4x4 pixels.
    taps = {n: (5 * n - 6) ** 2 for n in (8, 4)}
    dense = taps[8] * 1 * 8 + taps[4] * 8 * 12
    thin = taps[8] * 1 + 64 * 8 + taps[4] * 8 + 16 * 12
    images, multiply_and_add = 2, 2
    saved = flops(module, params) - flops(compact.module, compact.params)
    assert saved >= images * multiply_and_add * (dense - thin)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"energy": 0.0}, "energy=0.0"),
        ({"energy": 2.0}, "energy=2.0"),
        ({"energy": 0.5, "max_rank": 0}, "max_rank=0"),
        ({"energy": 0.5, "scheme": "fourier"}, "scheme='fourier'"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        factorize(models.mlp(3)(2), {}, **options)


def test_a_factorized_network_is_not_factorized_again():
    compact = factorize(models.mlp(3)(2), {}, energy=1.0)
    with pytest.raises(ValueError, match="not factorized yet"):
        factorize(compact.module, compact.params, energy=1.0)


class OfFlax(nn.Module):
    """With a convolution that is not the package's."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(32, (3, 3))(x))
        return nn.Dense(3)(x.reshape(x.shape[0], -1))


def test_a_layer_that_cannot_be_thin_is_named():
    network, x = OfFlax(), jnp.ones((1, 8, 8, 16))
    params = network.init(jax.random.key(0), x)["params"]
    compact = factorize(network, params, energy=0.5)
    with pytest.raises(ValueError, match=r"Expected Conv_0 to be nn\.Dense or"):
        compact.module.apply({"params": compact.params}, x)


@pytest.mark.thorough
def test_a_thin_network_drops_what_the_dense_one_does():
    network = models.char_transformer(32, depth=1, heads=2, dropout=0.5)(20)
    task = models.classification(network, input_shape=(8,), input_dtype="int32")
    compact = factorize(network, task.init(jax.random.key(0)), energy=0.3)
    thin = models.classification(compact.module, input_shape=(8,), input_dtype="int32")
    x = jnp.arange(16, dtype=jnp.int32).reshape(2, 8)
    losses = [
        float(thin.loss(compact.params, Examples(x, x), jnp.ones(2, bool), key))
        for key in jax.random.split(jax.random.key(1), 2)
    ]
    assert losses[0] != losses[1]


def test_parameters_in_a_collection_or_with_statistics_are_refused():
    network, x = models.mlp(64)(10), jnp.ones((1, 64))
    with pytest.raises(ValueError, match=r'give params\["params"\]'):
        factorize(network, network.init(jax.random.key(0), x), energy=0.5)
    normalised = nn.Sequential([nn.BatchNorm(use_running_average=True), nn.Dense(64)])
    with pytest.raises(ValueError, match="without running statistics for factorize"):
        factorize(normalised, normalised.init(jax.random.key(0), x), energy=0.5)
