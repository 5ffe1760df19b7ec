"""FeDLRT: against NumPy, at a fixed point, with uneven clients, and as bytes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_comp.algorithms import fed_avg, fed_dlrt
from fedjax_comp.base import Examples, Task
from fedjax_comp.compress import differenced, qsgd, top_k
from fedjax_comp.wire.accounting import message_bits
from tests.problems import make_cohort, stack_clients
from tests.traced_once import traced_once

M, N, RANK, RATE, STEPS = 9, 8, 2, 0.2, 3
RNG = np.random.default_rng(5)
TARGETS = RNG.normal(size=(3, M, N)).astype(np.float32)
CURVES = np.array([0.5, 1.0, 1.5], np.float32)
START = {
    "bias": np.ones(2, np.float32),
    "kernel": (RNG.normal(size=(M, RANK)) @ RNG.normal(size=(RANK, N))).astype(
        np.float32
    ),
}


def quadratics():
    """Client `i` has `a_i / 2 ||W - T_i||^2 + (a_i / 2) ||b||^2`."""

    def loss(params, examples, mask, key):
        del key
        away = jnp.sum((params["kernel"][None] - examples.x) ** 2, axis=(1, 2))
        each = examples.y / 2 * (away + jnp.sum(params["bias"] ** 2)[None])
        count = jnp.maximum(mask.sum(dtype=jnp.float32), 1)
        return jnp.where(mask, each, 0).sum() / count

    return Task(lambda key: jax.tree.map(jnp.asarray, START), loss, None)


def cohort(clients=3, targets=TARGETS):
    found = make_cohort([1] * clients, batch_size=1, epochs=STEPS)
    examples = Examples(jnp.asarray(targets[:clients]), jnp.asarray(CURVES[:clients]))
    return found._replace(examples=examples)


def make(**options):
    options = {"client_optimizer": optax.sgd(RATE), "rank": RANK, **options}
    return fed_dlrt(quadratics(), **options)


def run(algorithm, rounds=1, cohort=None):
    cohort = globals()["cohort"]() if cohort is None else cohort
    server, client = algorithm.init(jax.random.key(0), quadratics().init(None))
    clients = stack_clients(client, cohort.clients.client_id.shape[0])
    step, infos = traced_once(algorithm.round), []
    for i in range(rounds):
        server, clients, info = step(jax.random.key(i), server, clients, cohort)
        infos.append(info)
    return algorithm.params(server), infos


def in_numpy(w, b, *, rounds, correction):
    """The rules of the paper for these clients, in float64."""
    for _ in range(rounds):
        u, s, v = np.linalg.svd(w)
        u, s, v = u[:, :RANK], np.diag(s[:RANK]), v[:RANK].T
        slopes = [a * (w - t) for a, t in zip(CURVES, TARGETS, strict=True)]
        mean = np.mean(slopes, axis=0)
        wide_u = np.linalg.qr(np.hstack([u, mean @ v @ s]))[0]
        wide_v = np.linalg.qr(np.hstack([v, mean.T @ u @ s]))[0]
        cores, biases = [], []
        for a, t, slope in zip(CURVES, TARGETS, slopes, strict=True):
            core, bias = wide_u.T @ w @ wide_v, b.copy()
            # The corrected block is that of the old bases, wherever QR put them.
            drift = u.T @ (mean - slope) @ v if correction else np.zeros((RANK, RANK))
            drift = wide_u.T @ u @ drift @ v.T @ wide_v
            for _ in range(STEPS):
                now = wide_u @ core @ wide_v.T
                core = core - RATE * (wide_u.T @ (a * (now - t)) @ wide_v + drift)
                bias = bias - RATE * a * bias
            cores.append(core)
            biases.append(bias)
        u, s, v = np.linalg.svd(wide_u @ np.mean(cores, axis=0) @ wide_v.T)
        w = u[:, :RANK] * s[:RANK] @ v[:RANK]
        b = np.mean(biases, axis=0)
    return w, b


@pytest.mark.parametrize("correction", [True, False])
def test_it_is_its_algorithm_in_numpy(correction):
    params, infos = run(make(correction=correction), rounds=4)
    kernel, bias = in_numpy(
        *(np.float64(START[name]) for name in ("kernel", "bias")),
        rounds=4,
        correction=correction,
    )
    np.testing.assert_allclose(params["kernel"], kernel, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(params["bias"], bias, rtol=1e-5)
    assert int(infos[0].client_steps) == 2 * 3 * STEPS
    assert np.linalg.matrix_rank(params["kernel"], tol=1e-4) == RANK


@pytest.mark.thorough
def test_the_correction_is_one_of_the_drift_of_uneven_clients():
    target = RNG.normal(size=(3, M, RANK)) @ RNG.normal(size=(3, RANK, N))
    same = {}
    for name, targets in {"uneven": target, "even": target[[0, 0, 0]]}.items():
        targets = targets.astype(np.float32)
        both = [
            run(make(correction=on), 6, cohort(3, targets))[0]["kernel"]
            for on in (True, False)
        ]
        same[name] = float(jnp.abs(both[0] - both[1]).max())
    # Clients that differ in their curves alone still drift; those with one target and
    # one curve do not, and one client has nothing to be corrected by.
    alone = [
        run(make(correction=on), 3, cohort(1))[0]["kernel"] for on in (True, False)
    ]
    np.testing.assert_allclose(alone[0], alone[1], rtol=1e-4, atol=1e-5)
    assert same["uneven"] > 1e-2


def test_a_model_that_no_client_would_change_stays():
    target = np.stack([START["kernel"]] * 3)
    params, _ = run(make(), 3, cohort(3, target))
    np.testing.assert_allclose(params["kernel"], START["kernel"], rtol=1e-4, atol=1e-5)


def test_what_travels_is_what_the_docstring_says():
    _, (info,) = run(make(), 1)
    numbers = {
        kind: message_bits(cost.bits) * len(cost.spoke) // 32
        for kind, cost in info.traffic.items()
    }
    assert numbers == {
        "downlink": 3 * (RANK * (M + N) + RANK + 2),
        "basis_uplink": 3 * (RANK * (M + N) + RANK**2),
        "basis_downlink": 3 * (RANK * (M + N) + RANK**2),
        "uplink": 3 * ((2 * RANK) ** 2 + 2),
    }
    _, (info,) = run(make(correction=False), 1)
    cost = info.traffic["basis_uplink"].bits
    assert message_bits(cost) == 32 * RANK * (M + N)


@pytest.mark.thorough
def test_it_learns_through_lossy_links():
    kernel = np.mean(CURVES[:, None, None] * TARGETS, axis=0) / CURVES.mean()
    best = np.sum(np.linalg.svd(kernel)[1][RANK:] ** 2)
    params, _ = run(make(uplink=qsgd(64), downlink=qsgd(256)), rounds=40)
    lost = float(jnp.sum((params["kernel"] - kernel) ** 2))
    start = float(np.sum((START["kernel"] - kernel) ** 2))
    assert lost < best + 0.1 * (start - best)


def test_a_client_that_breaks_is_left_out_once():
    targets = TARGETS.copy()
    targets[1] = np.inf
    params, (info,) = run(make(), 1, cohort(3, targets))
    assert int(info.dropped) == 1
    assert bool(jnp.isfinite(params["kernel"]).all())


def test_a_client_without_a_step_is_as_one_that_is_not_there():
    idle, absent = cohort(), cohort()
    idle = idle._replace(
        clients=idle.clients._replace(mask=idle.clients.mask.at[1].set(False))
    )
    absent = absent._replace(
        clients=absent.clients._replace(active=absent.clients.active.at[1].set(False))
    )
    (params, (info, _)), (expected, _) = (run(make(), 2, x) for x in (idle, absent))
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    assert int(info.dropped) == 0
    for kind in ("basis_uplink", "basis_downlink", "uplink"):
        assert info.traffic[kind].spoke.tolist() == [True, False, True]


def test_a_model_without_worthy_leaves_is_refused():
    with pytest.raises(ValueError, match=r"rank=5 .* \[\(2,\), \(9, 8\)\]"):
        make(rank=5).init(jax.random.key(0), quadratics().init(None))
    with pytest.raises(ValueError, match="rank=0"):
        make(rank=0)
    with pytest.raises(ValueError, match="without memory at the receiver"):
        make(downlink=differenced(top_k(0.5))).init(
            jax.random.key(0), quadratics().init(None)
        )


def test_dense_leaves_are_those_of_federated_averaging():
    ours, _ = run(make(correction=False), 2)
    theirs = fed_avg(quadratics(), client_optimizer=optax.sgd(RATE))
    params, _ = run(theirs, 2)
    np.testing.assert_allclose(ours["bias"], params["bias"], rtol=1e-6)
