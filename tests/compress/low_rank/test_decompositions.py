"""Decompositions under a map: as one by one, and no mapped call of LAPACK on a CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.compress.low_rank import decompositions
from fedjax_comp.compress.low_rank.coded import coded_low_rank
from tests.conformance.compressor_checks import context_of

X = jnp.asarray(np.random.default_rng(0).standard_normal((3, 6, 4)), jnp.float32)
FUNCTIONS = {
    "eigh": lambda x: decompositions.eigh(x.T @ x),
    "orthonormal": decompositions.orthonormal,
    "svd": decompositions.svd,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_mapped_as_one_by_one(name):
    function = FUNCTIONS[name]
    mapped = jax.jit(jax.vmap(function))(X)
    for i, x in enumerate(X):
        one = jax.jit(function)(x)
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b, atol=1e-5),
            mapped,
            one,
        )


def lapack_shapes(function, *arguments):
    """The lines of a compiled program that call LAPACK."""
    text = jax.jit(function).lower(*arguments).compile().as_text()
    return [line for line in text.splitlines() if 'target="lapack' in line]


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="LAPACK is a CPU's")
def test_no_client_is_mapped_into_lapack():
    """The program of `tests/reproductions/mapped_lapack.py` may not be made."""
    clients = 7
    compressor, context = coded_low_rank(max_rank=8), context_of(0)

    def encode(x):
        return compressor.encode(context, x, ())[0]

    calls = lapack_shapes(jax.vmap(encode), jnp.ones((clients, 160, 150)))
    assert calls
    assert not any(f"f32[{clients}," in line for line in calls)
    # The fault, planted: the library's own.
    planted = lapack_shapes(jax.vmap(jnp.linalg.eigh), jnp.ones((clients, 5, 5)))
    assert any(f"f32[{clients}," in line for line in planted)
