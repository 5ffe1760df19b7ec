"""Rounds whose clients lie on disk give every bit of those on the device."""

import shutil

import jax
import jax.numpy as jnp
import optax
import pytest

from fedjax_comp.algorithms.fed_avg import fed_avg
from fedjax_comp.compress import differenced, error_feedback, qsgd, top_k
from fedjax_comp.execution import scanned, sharded
from fedjax_comp.hooks import Hook
from fedjax_comp.problem import Problem, Schedule
from fedjax_comp.rounds import check_round
from fedjax_comp.run import run
from fedjax_comp.run_directory import RunDirectoryError, open_run
from fedjax_comp.training import Evaluation, uniform_cohorts
from tests.problems import softmax_task
from tests.test_training import NUM_CLIENTS, population

TASK = softmax_task()
SCHEDULE = Schedule(9, eval_every=9, checkpoint_every=4)
ALGORITHMS = {
    "memory": {"uplink": error_feedback(top_k(0.2)), "execution": scanned()},
    # A listener's model for each client, and a cohort over two devices.
    "unicast": {
        "uplink": error_feedback(top_k(0.2)),
        "downlink": qsgd(8),
        "unicast": True,
        "execution": sharded(),
    },
    # What everybody hears is in the server's state, and paid for by all K.
    "broadcast": {
        "uplink": error_feedback(top_k(0.2)),
        "downlink": differenced(top_k(0.3)),
        "population": NUM_CLIENTS,
    },
}


def problem(name="memory", sample=None):
    return Problem(
        algorithm=fed_avg(
            TASK,
            client_optimizer=optax.sgd(0.2),
            server_optimizer=optax.sgd(1.0, momentum=0.5),
            **ALGORITHMS[name],
        ),
        sample=sample or uniform_cohorts(cohort_size=3, epochs=1, batch_size=4),
        data=population(),
        params=TASK.init(jax.random.key(0)),
        num_clients=NUM_CLIENTS,
        evaluate=lambda params, test: Evaluation(
            jnp.sum(params["bias"]), jnp.mean(test.x), {}
        ),
        test=population().test,
        links={},
    )


def go(path, what, client_store="disk", schedule=SCHEDULE, hooks=()):
    ledger, _, summary = run(
        open_run(path, "rounds", {}),
        what,
        schedule,
        jax.random.key(1),
        hooks=hooks,
        show_progress=False,
        client_store=client_store,
    )
    kept = {**vars(ledger), "seconds": None, "rows": None}
    rows = [{**row, "seconds": None} for row in ledger.rows]
    return kept, rows, summary["params_sha256"]


def test_what_a_round_refuses_is_told_without_one(monkeypatch):
    calls = []

    def sample(key, round_index, data):
        # What would be computed would have values, and be no tracer.
        calls.append(isinstance(round_index, jax.core.Tracer))
        return uniform_cohorts(cohort_size=3, epochs=1, batch_size=4)(
            key, round_index, data
        )

    sound = problem("broadcast", sample)
    check_round(sound, jax.random.key(1))
    assert calls == [True]
    fewer = {**ALGORITHMS["broadcast"], "population": 2}
    monkeypatch.setitem(ALGORITHMS, "fewer", fewer)
    with pytest.raises(ValueError, match="at most population=2 clients, got 3"):
        check_round(problem("fewer"), jax.random.key(1))
    with pytest.raises(ValueError, match=f"num_clients={NUM_CLIENTS}, .* got 1"):
        check_round(sound._replace(num_clients=1), jax.random.key(1))


def dies(after):
    def fail(live, state, dispatch):
        if live.ledger.rounds == after:
            raise MemoryError

    return Hook(after=fail)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "name",
    [
        name if name == "unicast" else pytest.param(name, marks=pytest.mark.slow)
        for name in ALGORITHMS
    ],
)
def test_every_bit_is_that_of_a_run_on_the_device(tmp_path, name):
    what = problem(name)
    whole = go(tmp_path / "device", what, "device")
    # Killed after a round that no checkpoint knows of.
    with pytest.raises(MemoryError):
        go(tmp_path / "disk", what, hooks=[dies(7)])
    assert go(tmp_path / "disk", what) == whole


@pytest.mark.slow
def test_the_checkpoint_before_finds_its_rows(tmp_path):
    what = problem()
    whole = go(tmp_path, what)
    newest = max((tmp_path / "checkpoints").iterdir(), key=lambda p: int(p.name))
    assert newest.name == "9"
    shutil.rmtree(newest)
    assert go(tmp_path, what) == whole


@pytest.mark.thorough
def test_a_row_that_was_changed_is_not_trained_on(tmp_path):
    what = problem()
    go(tmp_path, what)
    rows = tmp_path / "clients.rows"
    rows.write_bytes(bytes(byte ^ 1 for byte in rows.read_bytes()))
    longer = SCHEDULE._replace(num_rounds=12)
    with pytest.raises(RunDirectoryError, match=r"state of client \d .* is damaged"):
        go(tmp_path, what, schedule=longer)


@pytest.mark.thorough
def test_a_sampler_that_draws_others_within_the_round_is_told(tmp_path):
    traced = []
    uniform = uniform_cohorts(cohort_size=3, epochs=1, batch_size=4)

    def sample(key, index, data):
        traced.append(index)
        return uniform(jax.random.fold_in(key, len(traced)), index, data)

    with pytest.raises(RuntimeError, match="drew other clients for round 0"):
        go(tmp_path, problem(sample=sample))


def test_another_store_is_refused(tmp_path):
    with pytest.raises(ValueError, match="client_store='tape'"):
        go(tmp_path, problem(), "tape")
