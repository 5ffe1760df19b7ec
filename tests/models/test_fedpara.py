"""FedPara: the rank and the scale of its weights against linear algebra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.models.fedpara import FedParaDense, fed_para_mlp, hadamard_product


def test_the_rank_is_the_square_of_the_factors_rank():
    rng = np.random.default_rng(0)
    factors = [rng.standard_normal((n, 3)) for n in (20, 15, 20, 15)]
    weights = hadamard_product(*(jnp.asarray(f, jnp.float32) for f in factors))
    assert np.linalg.matrix_rank(np.asarray(weights, np.float64), tol=1e-4) == 9
    x1, y1, x2, y2 = factors
    np.testing.assert_allclose(weights, (x1 @ y1.T) * (x2 @ y2.T), atol=1e-4)


def test_the_layer_is_dense_with_those_weights_of_the_right_scale():
    layer, x = FedParaDense(300, rank=8), jnp.eye(400)
    params = layer.init(jax.random.key(0), x)["params"]
    params["bias"] = jnp.arange(300.0)
    weights = layer.apply({"params": params}, x) - params["bias"][None]
    expected = hadamard_product(*(params[name] for name in ("x1", "y1", "x2", "y2")))
    np.testing.assert_allclose(weights, expected, atol=1e-4)
    # The variance is a product of quadratic forms of 700 vectors of 8 numbers: within
    # a factor of two with room to spare.
    assert 0.5 < float(jnp.var(expected)) / (2 / 400) < 2


def test_refusals_name_the_value():
    with pytest.raises(ValueError, match="at least one width"):
        fed_para_mlp(rank=2)
    with pytest.raises(ValueError, match="Expected rank=0 >= 1"):
        fed_para_mlp(10, rank=0)
    with pytest.raises(ValueError, match=r"widths=\(0,\)"):
        fed_para_mlp(0, rank=1)
