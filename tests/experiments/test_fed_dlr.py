"""The FedDLR experiment: what it leaves behind, its claims, and mistakes."""

import csv
import json
from types import SimpleNamespace
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.fed_dlr import timing
from experiments.fed_dlr.claims import claims, graded
from experiments.fed_dlr.flags import (
    BASELINES,
    OTHER_MODELS,
    TRUNCATED,
    define,
)
from experiments.fed_dlr.run import (
    COLUMNS,
    COMPARISON,
    build_problem,
    main,
    parse,
    parse_methods,
)
from fedjax_comp import models
from fedjax_comp.experiment.comparison import Results
from fedjax_comp.experiment.seeds import claims_over_seeds
from fedjax_comp.models import Compact
from fedjax_comp.problem import Problem
from fedjax_comp.report import Run
from fedjax_comp.saved_model import load_model
from tests.experiments.small import mistake, read_runs


def _values(*given):
    values = define()
    values(["", "--workdir=unused", *given])
    return values


def test_the_defaults_are_valid_and_of_all_kinds():
    methods = parse_methods(_values())
    assert methods[0].name == "dense"
    counted = len(BASELINES), len(OTHER_MODELS), len(TRUNCATED)
    assert len(methods) == len({one.name for one in methods}) == sum(counted)
    assert [one.name for one in methods if one.model != "cnn()"] == ["fed-para-12"]
    assert {one.num_rounds for one in methods[-len(TRUNCATED) :]} == {80}


def test_every_kind_of_pipeline_may_be_left_out():
    dense = "--pipeline=dense: scaled_sign() | scaled_sign()"
    for given, count in (
        (["--truncated="], len(BASELINES) + len(OTHER_MODELS)),
        ([dense, "--other_model="], 1 + len(TRUNCATED)),
    ):
        assert len(parse_methods(_values(*given))) == count


def test_factored_clients_are_told_by_the_algorithm():
    called = {one.algorithm for one in parse_methods(_values("--factored"))}
    assert called == {
        "fed_avg()",
        "fed_avg(unicast=True)",
        "fed_dlr(factored=True)",
        "fed_dlr(factor_rank=16)",
    }


def test_a_truncated_pipeline_may_have_its_own_algorithm_and_start():
    links = "low_rank(8) | low_rank(8)"
    own = f"--truncated=own: {links} | fed_dlr(factor_rank=8) | 8"
    *_, plain, told = parse_methods(_values(f"--truncated=plain: {links}", own))
    assert (plain.algorithm, plain.start_rank) == ("fed_dlr()", 16)
    assert (told.algorithm, told.start_rank) == ("fed_dlr(factor_rank=8)", 8)


def _outcome(name, best, algorithm="fed_dlr()", **changes):
    ratios = {f"dense_over_compact_{what}": 3.5 for what in ("flops", *SECONDS)}
    controls = dict.fromkeys((f"dense_over_control_{what}" for what in SECONDS), 0.9)
    return {
        "name": name,
        "algorithm": algorithm,
        "best_test_accuracy": best,
        "compact_accuracy": best,
        "cut_accuracy": 0.5,
        "cut_parameters": 10,
        "dense_parameters": 20,
        "reason": "",
        **ratios,
        **controls,
        **changes,
    }


SECONDS = ("seconds_batch_1", "seconds_batch_256")


def _run(name, *evaluations):
    rows = [
        {"round": i, "test_accuracy": a, "uplink_bytes": b, "downlink_bytes": b}
        for i, (a, b) in enumerate(evaluations)
    ]
    return Run(name, rows)


def _compared(rows, runs, quick=False):
    results = Results(SimpleNamespace(quick=quick), rows, runs, None)
    COMPARISON.complete(results)
    COMPARISON.compare(rows)
    return results


def _held(results):
    return [claim["holds"] for claim in claims(results)]


RUNS = [
    _run("dense", (0.1, 0), (0.946, 100), (0.95, 200)),
    _run("cheap", (0.1, 0), (0.946, 30), (0.946, 90)),
    _run("near", (0.1, 0), (0.94, 10), (0.946, 20), (0.946, 25)),
    _run("far", (0.1, 0), (0.944, 10)),
]


def _rows():
    return [
        _outcome("dense", 0.95, "fed_avg()", total_bytes=400),
        _outcome("cheap", 0.946, "fed_avg()", total_bytes=180),
        _outcome("near", 0.946, total_bytes=50),
        _outcome("far", 0.944, total_bytes=20),
        _outcome("wrong", None, reason="why"),
    ]


def test_costs_are_those_to_an_accuracy_and_the_rival_the_cheapest_to_it():
    rows = _rows()
    results = _compared(rows, RUNS)
    # The target is the first one's best less the tolerance.
    assert [one["rounds_to_target"] for one in rows] == [1, 1, 2, None, None]
    ratios = [one["total_bytes_to_target_ratio"] for one in rows]
    assert ratios == [1, 3.3333, 5, None, None]
    # Not dense training, which took 200 bytes to the same; and of the whole run of 50.
    near, far = rows[2:4]
    assert (near["rival"], near["rival_bytes"], near["rival_bytes_ratio"]) == (
        "cheap",
        60,
        1.2,
    )
    assert (far["rival"], far["rival_bytes_ratio"]) == ("cheap", 3)
    assert "rival" not in rows[0]
    # What is cheapest is not graded when it is not as accurate as asked.
    assert graded(rows) is near
    assert _held(results) == [False, *[True] * 6]


@pytest.mark.parametrize(
    ("accuracy", "rival", "times"), [(0.9505, "cheap", 0.36), (0.97, "dense", 0.8)]
)
def test_what_nothing_else_reached_is_held_to_the_cheapest_that_came_near(
    accuracy, rival, times
):
    rows = [*_rows()[:2], _outcome("near", accuracy, total_bytes=500)]
    results = _compared(rows, RUNS[:3])
    assert rows[2]["rival"] is None
    (told,) = [one for one in claims(results) if "best rival took" in one["name"]]
    assert f"near against {rival}" in told["name"]
    assert (told["measured"], told["holds"]) == (times, False)


def test_without_a_rival_there_is_no_claim_against_one():
    rows = [{**row, "algorithm": "fed_dlr()"} for row in _rows()[2:3]]
    names = [one["name"] for one in claims(_compared(rows, RUNS[2:3]))]
    assert any("operations" in name for name in names)
    assert not any("rival" in name for name in names)


def test_the_most_accurate_is_graded_when_none_is_accurate_enough():
    rows = [_rows()[0], _outcome("low", 0.6, total_bytes=1), _rows()[3]]
    results = _compared(rows, [RUNS[0], _run("low"), RUNS[3]])
    assert graded(rows)["name"] == "far"
    assert _held(results) == [True, False, True, True, True, True, True]


def test_latency_holds_beyond_what_dense_against_itself_reads():
    rows = _rows()[:3]
    rows[2] |= {
        "dense_over_compact_seconds_batch_1": 1.2,
        "dense_over_control_seconds_batch_1": 0.8,
        "dense_over_compact_seconds_batch_256": 1.2,
        "dense_over_control_seconds_batch_256": 1.1,
    }
    assert _held(_compared(rows, RUNS[:3]))[-2:] == [False, True]


def test_a_rival_cut_after_training_may_be_the_better_compact_model():
    rows = _rows()[:3]
    rows[1]["cut_accuracy"] = 0.947
    results = _compared(rows, RUNS[:3])
    assert _held(results)[3] is False
    # One that cutting leaves as large as it is, is no compact model.
    rows[1]["cut_parameters"] = rows[1]["dense_parameters"]
    assert _held(results)[3] is True


def test_quick_and_failed_first_runs_claim_that_nothing_failed_and_no_more():
    assert len(claims(_compared(_rows(), RUNS, quick=True))) == 1
    rows = [_outcome("dense", None, "fed_avg()", reason="why"), *_rows()[3:4]]
    results = _compared(rows, RUNS[3:])
    assert rows[1]["rounds_to_target"] is None
    assert len(claims(results)) == 1


def test_with_seeds_a_claim_is_one_whoever_the_rival_was():
    def of(name):
        rows = _rows()[:3]
        rows[1]["name"] = name
        runs = [RUNS[0], RUNS[1]._replace(name=name), RUNS[2]]
        return claims(_compared(rows, runs))

    over = claims_over_seeds([of("cheap"), of("other"), of("cheap")])
    assert len(over) == 7
    assert not any("seeds" in one["name"] for one in over)


@pytest.mark.thorough
def test_latency_is_of_one_device_however_many_hold_the_parameters():
    devices = jax.devices()
    mesh = Mesh(np.array(devices), "d")
    module = models.mlp(6)(3)
    params = module.init(jax.random.key(0), jnp.zeros((1, 4)))["params"]
    spread = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    seen = []
    call = mock.Mock(side_effect=lambda *given: seen.append(given))
    with mock.patch.object(timing, "apply_jitted", return_value=call):
        timing.latency_seconds({"a": Compact(module, spread)}, np.zeros((2, 4)))
    assert {d for leaf in jax.tree.leaves(seen) for d in leaf.devices()} == {devices[0]}


@pytest.mark.thorough
def test_quick_run_leaves_everything_behind(tmp_path, capsys):
    flags = [
        f"--workdir={tmp_path}",
        "--quick",
        "--model=mlp(24)",
        "--num_rounds=4",
        "--truncated_rounds=4",
        "--eval_every=2",
        "--audit_every=4",
        "--noprogress",
        # Valid as an expression, and refused when it meets the model.
        "--truncated=fed-dlr-9: truncation(0.9) | truncation(0.9)",
        "--truncated=wrong: truncation(0.9) | differenced(identity())",
    ]
    main(["fed_dlr", *flags])
    summary = json.loads((tmp_path / "summary.json").read_text())
    dense, truncated, wrong = summary["runs"]
    assert list(read_runs(tmp_path)) == ["dense", "fed-dlr-9", "wrong"]
    assert dense["total_bytes_to_target_ratio"] == 1
    # Four rounds of five clients, both ways, of 1810 numbers.
    assert dense["total_bytes"] == 4 * 5 * 2 * 1810 * 4
    # The 64x24 matrix is of rank 8 or less; the 24x10 one may travel as it is.
    assert truncated["total_bytes"] <= 4 * 5 * 2 * ((8 * 88 + 274) * 4 + 4)
    assert "without memory" in wrong["reason"]
    assert truncated["compact_parameters"] < truncated["dense_parameters"]
    assert truncated["dense_over_compact_flops"] > 1
    assert abs(truncated["compact_accuracy"] - truncated["test_accuracy"]) < 0.01
    own = json.loads((tmp_path / "fed-dlr-9" / "summary.json").read_text())
    assert own["audited_messages"] > 0
    assert own["audit_failures"] == 0
    loaded = load_model(tmp_path / "fed-dlr-9" / "compact")
    assert dict(loaded.module.ranks) == truncated["compact_ranks"]
    with (tmp_path / "table.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert tuple(table[0]) == ("name", *COLUMNS, "reason")
    report = (tmp_path / "report.html").read_text()
    assert report.count("data:image/png") == 2
    assert all(claim["holds"] for claim in summary["claims"][1:])
    for row in (dense, truncated):
        assert row["encode_seconds"] > 0
        assert 0.2 < row["dense_over_control_seconds_batch_1"] < 5
    capsys.readouterr()

    # A second call finds each finished run, and says the same.
    main(["fed_dlr", *flags])
    assert "nothing was changed" in capsys.readouterr().out
    assert json.loads((tmp_path / "summary.json").read_text()) == summary


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--truncated=a: truncate(1) | identity()", "truncation"),
        ("--truncated=dense: identity() | identity()", "names must differ"),
        ("--client_optimizer=identity()", "client_optimizer"),
        ("--compact_energy=2", "compact_energy"),
        ("--cohort_size=21", "--num_clients=20"),
        ("--pipeline=", "--pipeline is missing"),
        ("--truncated=a: identity() | identity() | fed_dlr() | -1", "START_RANK=-1"),
        ("--other_model=a: mpl(3) | identity() | identity()", "mlp"),
        ("--other_model=a: identity() | identity()", "NAME: MODEL | UPLINK"),
        ("--proximal=0.1", "--proximal=0.1: fed_dlr() has no proximal"),
        ("--server_optimizer=adam(0.1)", "fed_dlr() has no server_optimizer"),
        ("--concurrency=4 --network=constant(1)", "FedDLR counts no late updates"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(tmp_path, capsys, flag, expected):
    flags = [f"--workdir={tmp_path / 'run'}", "--quick", "--noprogress"]
    given = flag.split(" --")
    flags += [given[0], *(f"--{one}" for one in given[1:])]
    assert expected in mistake(main, capsys, flags)
    assert not list(tmp_path.iterdir())


def test_what_fed_avg_alone_honours_is_taken_where_fed_avg_is_alone():
    values = define()
    own = [
        "--dataset=digits",
        "--partition=iid()",
        "--other_model=",
        "--proximal=0.1",
        "--server_optimizer=adam(0.1)",
    ]
    values(["", "--workdir=unused", "--truncated=", *own])
    called = {one.algorithm for one in parse(values)}
    assert called == {"fed_avg()", "fed_avg(unicast=True)"}


@pytest.mark.parametrize(("algorithm", "rank"), [("fed_dlr()", 3), ("fed_avg()", 12)])
def test_a_start_of_rank_0_is_the_model_as_it_is_drawn(algorithm, rank):
    drawn = jax.random.normal(jax.random.key(0), (12, 30))
    problem = Problem(*[None] * 8)._replace(params=drawn)

    def start(flag):
        values = _values(flag)
        values["algorithm"].value = algorithm
        made = "experiments.fed_dlr.run.build_fed_avg"
        with mock.patch(made, return_value=problem):
            return build_problem(values).params

    assert start("--start_rank=0") is drawn
    assert np.linalg.matrix_rank(start("--start_rank=3")) == rank
