"""Both ends draw the same numbers, whatever the process's keys are made of."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_comp.algorithms.fed_avg import fed_avg
from fedjax_comp.base import make_context
from fedjax_comp.compress import chain, random_k, rotate, stochastic_quantize
from fedjax_comp.compress.audit import make_auditor
from fedjax_comp.execution import vmapped
from fedjax_comp.keys import check_key, make_key
from fedjax_comp.training import init_state
from tests.problems import make_cohort, softmax_task, stack_clients

DEFAULTS = ("threefry2x32", "rbg", "unsafe_rbg")


def test_two_seeds_are_never_one():
    for seed in (-1, 2**32, 2**63):
        with pytest.raises(ValueError, match=f"seed={seed}"):
            make_key(seed)
    last, first = (jax.random.key_data(make_key(seed)) for seed in (2**32 - 1, 0))
    assert last.tolist() != first.tolist()


def one_round(key):
    uplink = chain(rotate(), random_k(0.5), stochastic_quantize(levels=4))
    algorithm = fed_avg(
        softmax_task(),
        client_optimizer=optax.sgd(0.3),
        uplink=uplink,
        execution=vmapped(),
        keep_messages=True,
    )
    cohort = make_cohort([6, 3, 9], batch_size=3)
    server, template = algorithm.init(key, softmax_task().init(make_key(1)))
    clients = stack_clients(template, 3)
    _, _, info = jax.jit(algorithm.round)(key, server, clients, cohort)
    return info.messages["uplink"], make_auditor(uplink)


@pytest.fixture(scope="module")
def expected():
    return one_round(make_key(0))[0].payload


@pytest.mark.thorough
@pytest.mark.parametrize("default", DEFAULTS[1:])
def test_messages_decode_to_what_the_run_used_under_any_default(default, expected):
    with jax.default_prng_impl(default):
        messages, audit = one_round(make_key(0))
        assert audit(messages) == (3, ())
    # The default changes nothing at all: the payloads are the same bytes.
    jax.tree.map(np.testing.assert_array_equal, messages.payload, expected)


@pytest.mark.parametrize("implementation", DEFAULTS[1:])
def test_other_keys_are_refused(implementation):
    key = jax.random.key(0, impl=implementation)
    with pytest.raises(ValueError, match=f"one of {implementation}"):
        make_context(key, 0)
    algorithm = fed_avg(softmax_task(), client_optimizer=optax.sgd(0.1))
    with pytest.raises(ValueError, match="make_key"):
        init_state(key, algorithm, softmax_task().init(make_key(0)), 2)


def test_what_is_no_key_is_refused():
    with pytest.raises(ValueError, match="make_key"):
        check_key(jax.random.PRNGKey(0))
    with pytest.raises(ValueError, match="one of int"):
        check_key(3)
    assert check_key(make_key(3)) == jax.random.key(3)
    assert jnp.issubdtype(make_key(3).dtype, jax.dtypes.prng_key)
