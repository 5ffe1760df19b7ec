"""FedPara: ranks, scale and limit cases of its weights against linear algebra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp import models
from fedjax_comp.models.fedpara import fed_para, hadamard_kernel, hadamard_product


def test_the_rank_is_the_square_of_the_factors_rank():
    rng = np.random.default_rng(0)
    factors = [rng.standard_normal((n, 3)) for n in (20, 15, 20, 15)]
    weights = hadamard_product(*(jnp.asarray(f, jnp.float32) for f in factors))
    assert np.linalg.matrix_rank(np.asarray(weights, np.float64), tol=1e-4) == 9
    x1, y1, x2, y2 = factors
    np.testing.assert_allclose(weights, (x1 @ y1.T) * (x2 @ y2.T), atol=1e-4)


def _kernel_factors(rank, inputs=20, outputs=15, taps=(3, 2)):
    rng = np.random.default_rng(0)
    shapes = [(*taps, rank, rank), (inputs, rank), (outputs, rank)] * 2
    return [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes]


def test_both_unfoldings_of_a_kernel_are_of_the_squared_rank():
    kernel = np.asarray(hadamard_kernel(*_kernel_factors(3)), np.float64)
    for axis in (2, 3):
        unfolded = np.moveaxis(kernel, axis, 0).reshape(kernel.shape[axis], -1)
        assert np.linalg.matrix_rank(unfolded, tol=1e-3) == 9


def test_a_kernel_of_one_tap_and_unit_cores_is_the_matrix_product():
    _, x1, y1, _, x2, y2 = _kernel_factors(4)
    unit = jnp.eye(4)[None, None]
    kernel = hadamard_kernel(unit, x1, y1, unit, x2, y2)
    expected = hadamard_product(x1, y1, x2, y2)
    np.testing.assert_allclose(kernel[0, 0], expected, rtol=1e-4, atol=1e-4)


def test_with_ones_for_the_second_factor_it_is_a_plain_low_rank_kernel():
    t, x, y, *_ = _kernel_factors(3)
    ones = (jnp.ones((3, 2, 1, 1)), jnp.ones((20, 1)), jnp.ones((15, 1)))
    kernel = hadamard_kernel(t, x, y, *ones)
    expected = np.zeros((3, 2, 20, 15))
    for h, w, r, s in np.ndindex(3, 2, 3, 3):
        expected[h, w] += float(t[h, w, r, s]) * np.outer(x[:, r], y[:, s])
    np.testing.assert_allclose(kernel, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (models.cnn((16, 24), hidden=40), (8, 8, 3)),
        (models.vgg((16, 24), repeats=1, hidden=40), (8, 8, 3)),
        (models.resnet(8), (8, 8, 3)),
    ],
)
def test_the_network_is_the_dense_one_with_those_weights(model, shape):
    x = jax.random.normal(jax.random.key(1), (2, *shape))
    thin = fed_para(model, rank=3)(10)
    params = thin.init(jax.random.key(0), x)["params"]
    replaced = 0

    def composed(node):
        nonlocal replaced
        if "x1" not in node:
            return {
                name: composed(below) if isinstance(below, dict) else below
                for name, below in node.items()
            }
        replaced += 1
        names = [f"{name}{i}" for i in (1, 2) for name in "txy" if f"{name}{i}" in node]
        product = hadamard_kernel if "t1" in node else hadamard_product
        rest = {name: x for name, x in node.items() if name not in names}
        return {**rest, "kernel": product(*(node[name] for name in names))}

    dense = composed(params)
    assert replaced >= 2
    expected = model(10).apply({"params": dense}, x)
    actual = thin.apply({"params": params}, x)
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-3)
    numbers = [sum(a.size for a in jax.tree.leaves(one)) for one in (params, dense)]
    assert numbers[0] < numbers[1]


def test_the_initial_weights_have_he_s_scale():
    x = jnp.zeros((1, 16, 16, 48))
    thin = fed_para(models.cnn((64,), hidden=300), rank=8)(10)
    params = thin.init(jax.random.key(0), x)["params"]
    dense = hadamard_product(*(params["Dense_0"][n] for n in ("x1", "y1", "x2", "y2")))
    names = ("t1", "x1", "y1", "t2", "x2", "y2")
    kernel = hadamard_kernel(*(params["Conv_0"][name] for name in names))
    # Products of quadratic forms of hundreds of vectors of 8 numbers: within a factor
    # of two with room to spare, of three where there are three factors.
    assert 0.5 < float(jnp.var(dense)) / (2 / (8 * 8 * 64)) < 2
    assert 1 / 3 < float(jnp.var(kernel)) / (2 / (25 * 48)) < 3


def test_layers_of_fewer_numbers_stay_as_they_are():
    x = jnp.zeros((1, 8, 8, 1))
    params = fed_para(models.cnn((4,), hidden=5), rank=30)(3).init(jax.random.key(0), x)
    dense = models.cnn((4,), hidden=5)(3).init(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, params, dense)


def test_its_compact_model_is_the_same_network():
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    thin = fed_para(models.cnn((16, 24), hidden=40), rank=3)(10)
    params = thin.init(jax.random.key(0), x)["params"]
    compact = models.factorize(thin, params, energy=0.5)
    assert compact.module.ranks == ()
    run = [jax.jit(m.apply)({"params": p}, x) for m, p in ((thin, params), compact)]
    np.testing.assert_array_equal(*run)


def test_refusals_name_the_value():
    with pytest.raises(ValueError, match="Expected rank=0 >= 1"):
        fed_para(models.mlp(10), rank=0)
    with pytest.raises(ValueError, match="Expected model=3 to be a model"):
        fed_para(3, rank=1)
