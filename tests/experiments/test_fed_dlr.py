"""The FedDLR experiment: what it leaves behind, its claims, and mistakes."""

import csv
import json

import pytest

from experiments.fed_dlr.flags import BASELINES, ENERGIES, TRUNCATED, define
from experiments.fed_dlr.run import (
    COLUMNS,
    COMPARISON,
    best_truncated,
    claims,
    main,
    parse,
    parse_methods,
)
from fedjax_comp.experiment.comparison import Results
from fedjax_comp.experiment.pipelines import parse_pipelines
from fedjax_comp.report import Run
from fedjax_comp.saved_model import load_model
from tests.experiments.small import mistake, read_runs


def test_the_tables_are_valid_and_complete():
    names = [pipeline.name for pipeline in parse_pipelines(BASELINES + TRUNCATED)]
    assert names[0] == "dense"
    assert len(names) == len(set(names)) == 4 + len(ENERGIES)


def test_either_kind_of_pipeline_may_be_left_out():
    for given, count in (
        ("--truncated=", 4),
        ("--pipeline=dense: scaled_sign() | scaled_sign()", 1 + len(ENERGIES)),
    ):
        values = define()
        values(["", "--workdir=unused", given])
        assert len(parse_methods(values)) == count


def test_factored_clients_are_told_by_the_algorithm():
    values = define()
    values(["", "--workdir=unused", "--factored"])
    called = {one.algorithm for one in parse_methods(values)}
    assert called == {"fed_avg()", "fed_dlr(factored=True)"}


def _outcome(name, best, algorithm="fed_dlr()", **changes):
    ratios = ("flops", "seconds_batch_1", "seconds_batch_256")
    return {
        "name": name,
        "algorithm": algorithm,
        "best_test_accuracy": best,
        "reason": "",
        **{f"dense_over_compact_{one}": 3.5 for one in ratios},
        **changes,
    }


def _run(name, *evaluations):
    rows = [
        {"round": i, "test_accuracy": a, "uplink_bytes": b, "downlink_bytes": b}
        for i, (a, b) in enumerate(evaluations)
    ]
    return Run(name, rows)


def _compared(rows, runs):
    results = Results(None, rows, runs, None)
    COMPARISON.complete(results)
    COMPARISON.compare(rows)
    return results


def test_costs_are_those_to_the_first_pipeline_s_best_less_the_tolerance():
    outcomes = [
        _outcome("dense", 0.95, "fed_avg()"),
        _outcome("near", 0.946),
        _outcome("far", 0.944),
        _outcome("wrong", None, reason="why"),
    ]
    runs = [
        _run("dense", (0.1, 0), (0.946, 100), (0.95, 200)),
        _run("near", (0.1, 0), (0.94, 10), (0.946, 20), (0.946, 30)),
        _run("far", (0.1, 0), (0.944, 10)),
    ]
    results = _compared(outcomes, runs)
    assert [one["rounds_to_target"] for one in outcomes] == [1, 2, None, None]
    assert [one["total_bytes_to_target_ratio"] for one in outcomes] == [
        1,
        5,
        None,
        None,
    ]
    assert best_truncated(outcomes) is outcomes[1]
    assert [claim["holds"] for claim in claims(results)] == [False, *[True] * 5]

    # With none so close, the most accurate is held against the claims.
    outcomes = [outcomes[0], outcomes[2], _outcome("low", 0.6)]
    results = _compared(outcomes, runs)
    assert best_truncated(outcomes)["name"] == "far"
    held = [claim["holds"] for claim in claims(results)]
    assert held == [True, False, False, True, True, True]
    assert len(claims(results._replace(rows=outcomes[:1]))) == 1

    # A first pipeline that failed sets no target.
    outcomes = [
        _outcome("dense", None, "fed_avg()", reason="why"),
        _outcome("far", 0.9),
    ]
    results = _compared(outcomes, runs[2:])
    assert outcomes[1]["rounds_to_target"] is None
    assert len(claims(results)) == 1


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
    own = ["--dataset=digits", "--proximal=0.1", "--server_optimizer=adam(0.1)"]
    values(["", "--workdir=unused", "--truncated=", *own])
    assert {one.algorithm for one in parse(values)} == {"fed_avg()"}
