"""Streaming DiLoCo: one fragment is DiLoCo, several are ten lines of NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_comp.algorithms import diloco, streaming_diloco
from fedjax_comp.algorithms.streaming_diloco import fragments_of
from fedjax_comp.compress import differenced, error_feedback, top_k
from tests.algorithms.test_diloco import PARAMS, TASK, close, gradient, run
from tests.problems import make_cohort


@pytest.fixture(autouse=True)
def as_optax_has_it():
    """Adam raises numbers to its integer count."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def test_one_fragment_is_diloco():
    cohort = make_cohort([6, 4], batch_size=2)
    options = {
        "client_optimizer": optax.adamw(0.05),
        "uplink": error_feedback(top_k(0.3)),
        "downlink": error_feedback(top_k(0.4)),
    }
    expected, theirs, info = run(diloco(TASK, **options), cohort, rounds=3)
    got, ours, seen = run(
        streaming_diloco(TASK, fragments=1, **options), cohort, rounds=3
    )
    close(got, expected)
    close(ours.learner.optimizer_state, theirs.optimizer_state)
    close(ours.uplinks[0], theirs.uplink)
    np.testing.assert_allclose(seen.train_loss, info.train_loss, rtol=1e-5)
    assert seen.traffic["uplink"].bits.fixed == info.traffic["uplink"].bits.fixed
    assert int(seen.client_steps) == int(info.client_steps)


def in_numpy(cohort, *, rounds, delay, mixing, rate=0.3):
    """Two fragments, parts of two steps of SGD, an outer step of 0.7 with momentum."""
    names = sorted(PARAMS)
    assert [list(x) for x in fragments_of(PARAMS, 2)] == [[0], [1]]
    copy = {n: np.asarray(PARAMS[n]) for n in names}
    server, speed = dict(copy), {n: np.zeros_like(copy[n]) for n in names}
    own, heard = [dict(copy), dict(copy)], [dict(copy), dict(copy)]
    for _ in range(rounds):
        for part in range(2):
            late, now = names[part - 1], names[part]
            received, changes = server[late], []
            for i in range(2):
                for step in range(2 * part, 2 * part + 2):
                    if step - 2 * part == delay:
                        own[i][late] = mixing * own[i][late] + (1 - mixing) * received
                        heard[i][late] = received
                    slope = gradient(own[i], cohort, i, step)
                    own[i] = {n: own[i][n] - rate * np.asarray(slope[n]) for n in names}
                changes.append(own[i][now] - heard[i][now])
            outer = -np.mean(changes, axis=0)
            speed[now] = 0.9 * speed[now] + outer
            server[now] = server[now] - 0.7 * (0.9 * speed[now] + outer)
    return server, own


@pytest.mark.thorough
@pytest.mark.parametrize(("delay", "mixing"), [(0, 0.0), (1, 0.5)])
def test_two_fragments_with_delay_and_mixing(delay, mixing):
    cohort = make_cohort([8, 8], batch_size=2)
    algorithm = streaming_diloco(
        TASK, client_optimizer=optax.sgd(0.3), delay=delay, mixing=mixing
    )
    got, workers, info = run(algorithm, cohort, rounds=3)
    expected, own = in_numpy(cohort, rounds=3, delay=delay, mixing=mixing)
    close(got, expected, atol=1e-5)
    for i in range(2):
        close(jax.tree.map(lambda x, i=i: x[i], workers.learner.params), own[i], 1e-5)
    # Every number once up and once down, whatever the fragments.
    n = sum(x.size for x in jax.tree.leaves(PARAMS))
    for direction in ("uplink", "downlink"):
        kinds = (direction, f"{direction}_1")
        assert sum(info.traffic[kind].bits.fixed for kind in kinds) == 32 * n


def test_who_is_away_keeps_all_it_had():
    cohort = make_cohort([4, 4], batch_size=2)
    away = cohort.clients._replace(active=jnp.array([True, False]))
    algorithm = streaming_diloco(TASK, client_optimizer=optax.sgd(0.3))
    _, workers, info = run(algorithm, cohort._replace(clients=away), rounds=2)
    close(jax.tree.map(lambda x: x[1], workers.heard), PARAMS)
    close(jax.tree.map(lambda x: x[1], workers.learner.params), PARAMS)
    assert info.traffic["downlink_1"].spoke.tolist() == [True, False]


def test_a_worker_that_is_not_finite_goes_on_from_what_it_heard():
    cohort = make_cohort([4, 4], batch_size=2)
    broken = cohort.examples._replace(x=cohort.examples.x.at[4:].set(jnp.nan))
    algorithm = streaming_diloco(TASK, client_optimizer=optax.sgd(0.3))
    _, workers, info = run(algorithm, cohort._replace(examples=broken), rounds=1)
    assert int(info.dropped) == 2  # one in each part
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(workers))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"fragments": 0}, "fragments=0"),
        ({"fragments": 3}, "take fewer"),
        ({"mixing": 1.0}, "mixing=1.0"),
        ({"delay": -1}, "delay=-1"),
        ({"delay": 3}, "at least 3 local steps"),
        ({"downlink": differenced(top_k(0.5))}, "without memory"),
    ],
)
def test_what_cannot_be_is_refused(options, expected):
    cohort = make_cohort([4, 4], batch_size=2)

    def attempt():
        algorithm = streaming_diloco(TASK, client_optimizer=optax.sgd(0.3), **options)
        run(algorithm, cohort, rounds=1)

    with pytest.raises(ValueError, match=expected):
        attempt()
