"""Hooks: when each is called, in which order, and what a user's own looks like."""

import jax
import jax.numpy as jnp
import optax
import pytest

from fedjax_comp.algorithms.fed_avg import fed_avg
from fedjax_comp.hooks import Hook, forwarded
from fedjax_comp.run import Problem, Schedule, run
from fedjax_comp.run_directory import open_run
from fedjax_comp.training import Evaluation
from tests.problems import make_cohort, make_examples, softmax_task

SIZES = [4, 3]


def problem():
    task = softmax_task()

    def evaluate(params, examples):
        return Evaluation(jnp.sum(params["bias"]), jnp.mean(examples.x), {})

    return Problem(
        algorithm=fed_avg(task, client_optimizer=optax.sgd(0.1)),
        sample=lambda key, index, data: data,
        data=make_cohort(SIZES, 2),
        params=task.init(jax.random.key(0)),
        num_clients=len(SIZES),
        evaluate=evaluate,
        test=make_examples(3),
        links={},
    )


SCHEDULE = Schedule(6, eval_every=3, checkpoint_every=4)


def go(path, hooks, schedule=SCHEDULE, what=None):
    directory = open_run(path, "hooks", {})
    return run(
        directory,
        problem() if what is None else what,
        schedule,
        jax.random.key(1),
        hooks=hooks,
        show_progress=False,
    )


class Tracker:
    """Stands for `wandb` or `mlflow`."""

    def __init__(self):
        self.logged = {}

    def log(self, values, step):
        self.logged[step] = values


def test_a_tracker_gets_every_row_s_numbers(tmp_path):
    tracker = Tracker()

    ledger, _, _ = go(tmp_path, [forwarded(tracker.log)])

    assert list(tracker.logged) == [0, 3, 6]
    last, row = tracker.logged[6], ledger.rows[-1]
    assert last["test_loss"] == row["test_loss"]
    assert last["uplink_bytes"] == row["uplink_bytes"]
    assert "round" not in last
    assert all(isinstance(value, int | float) for value in last.values())
    # Nobody has trained before round 0: there is no such loss to hand over.
    assert "train_loss" not in tracker.logged[0]


def noting(name, calls, **options):
    def note(kind):
        def called(live, *_):
            calls.append((kind, name, live.ledger.rounds))
            return _[0] if kind in ("begin", "before") else None

        return called

    kinds = ("begin", "before", "after", "row", "checkpoint", "finish")
    return Hook(**{kind: note(kind) for kind in kinds}, **options)


def test_the_order_is_that_of_the_list_and_checkpoints_go_backwards(tmp_path):
    calls = []
    go(tmp_path, [noting("a", calls, every=2), noting("b", calls)])
    ab = [("a", "b"), ("b", "a")]

    def each(kind, rounds):
        return [(kind, name, rounds) for name in ab[kind == "checkpoint"]]

    assert calls[:4] == [*each("begin", 0), *each("row", 0)]
    assert calls[-6:] == [*each("row", 6), *each("checkpoint", 6), *each("finish", 6)]
    # Dispatches end where evaluations (3), checkpoints (4) or `a` (2) need the host.
    ends = [rounds for kind, name, rounds in calls if (kind, name) == ("after", "a")]
    assert {2, 3, 4, 6} <= set(ends)
    i = calls.index(("after", "a", 4))
    assert calls[i : i + 4] == [*each("after", 4), *each("checkpoint", 4)]


def test_every_one_gets_each_round_alone_and_changes_no_bit(tmp_path):
    calls = []
    alone = noting("a", calls, every=1)
    *_, summary = go(tmp_path / "a", [alone])
    ends = [rounds for kind, _, rounds in calls if kind == "after"]
    assert ends == [1, 2, 3, 4, 5, 6]
    *_, other = go(tmp_path / "b", [])
    assert summary["params_sha256"] == other["params_sha256"]


def test_a_checkpoint_holds_what_hooks_put_into_the_ledger(tmp_path):
    seen = []

    def begin(live, state):
        seen.append(dict(live.ledger.conditions))
        return state

    def after(live, state, dispatch):
        live.ledger.conditions["after"] = live.ledger.rounds
        if live.ledger.rounds == 5:
            raise MemoryError

    def checkpoint(live, state):
        live.ledger.conditions["flushed"] = live.ledger.rounds

    hook = Hook(begin=begin, after=after, checkpoint=checkpoint, every=1)
    with pytest.raises(MemoryError):
        go(tmp_path, [hook])
    go(tmp_path, [hook._replace(after=Hook().after)])
    assert seen == [{}, {"after": 4, "flushed": 4}]


def test_what_a_hook_opened_is_closed_when_the_run_fails(tmp_path):
    closed = []

    def begin(live, state):
        live.exits.callback(closed.append, "file")
        return state

    def after(live, state, dispatch):
        raise MemoryError

    with pytest.raises(MemoryError):
        go(tmp_path, [Hook(begin=begin, after=after)])
    assert closed == ["file"]


@pytest.mark.thorough
def test_a_run_can_be_looked_into_op_by_op(tmp_path):
    seen = []
    watched = problem()
    whole = watched.algorithm.round

    def observed(key, server, clients, cohort):
        bias = server.model.params["bias"]
        seen.extend([] if isinstance(bias, jax.core.Tracer) else [bias])
        return whole(key, server, clients, cohort)

    watched = watched._replace(algorithm=watched.algorithm._replace(round=observed))
    with jax.disable_jit():
        ledger, *_ = go(tmp_path / "eager", [], Schedule(1), watched)
    compiled, *_ = go(tmp_path / "compiled", [], Schedule(1))
    assert len(seen) == 1
    assert ledger.uplink_bytes == compiled.uplink_bytes
    losses = [one.rows[-1]["test_loss"] for one in (ledger, compiled)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_an_audit_of_no_messages_is_refused(tmp_path):
    with pytest.raises(ValueError, match="keep_messages=True"):
        go(tmp_path, [], Schedule(2, audit_every=2))
