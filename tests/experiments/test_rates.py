"""Rates chosen on a grid: by what, for which variant, and where they are recorded."""

import csv
import functools
import json
import math

import numpy as np
import pytest

from experiments.adaptive.run import COMPARISON as ADAPTIVE
from experiments.approximate_synchronous.flags import define_run as define_of_a_centre
from experiments.approximate_synchronous.problem import (
    build_problem as build_problem_of_centres,
)
from experiments.approximate_synchronous.run import COMPARISON as CENTRES
from experiments.data_quantization.run import main as data_quantization
from experiments.dynamic_averaging.run import COMPARISON as STREAMS
from experiments.fed_avg.compare import COMPARISON
from experiments.fed_avg.flags import define
from experiments.frontier.run import COMPARISON as FRONTIER
from fedjax_comp import data
from fedjax_comp.experiment.expressions import with_rate
from fedjax_comp.experiment.problem import build_federation
from fedjax_comp.experiment.rates import (
    TUNING_SEED,
    Rated,
    Tuning,
    _print_rates,
    score,
)
from tests.experiments.small import mistake

QUICK = [
    "--model=mlp(8)",
    "--num_clients=10",
    "--cohort_size=2",
    "--num_rounds=6",
    "--eval_every=6",
    "--audit_every=0",
    "--noprogress",
    "--pipeline=dense: identity() | identity()",
    "--pipeline=sign: error_feedback(scaled_sign()) | identity()",
]
GRID = ["--client_optimizer=sgd(rate)", "--rate_grid=1e-4,0.1"]


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.thorough
def test_the_best_rate_is_recorded_with_every_seed(tmp_path, capsys):
    folder = tmp_path / "run"
    command = ["compare", f"--workdir={folder}", *QUICK, *GRID]
    COMPARISON.main(command)
    for row in table(folder / "table.csv"):
        assert (row["rate"], row["rate_at_edge"]) == ("0.1", "True")
    assert "dense: rate 0.1 (0.0001: " in capsys.readouterr().out
    tried = table(folder / "rates.csv")
    assert [row["rate"] for row in tried] == ["0.0001", "0.1"] * 2
    for row in tried:
        at = "rate-" + row["rate"]
        own = folder / "tuning" / at / row["name"]
        config = json.loads((own / "config.json").read_text())["flags"]
        assert config["seed"] == TUNING_SEED
        assert config["client_optimizer"] == f"sgd({row['rate']})"
        assert config["validation_share"] == 0.1
        summary = json.loads((own / "summary.json").read_text())
        best = summary["best_test_accuracy"]
        assert float(row["best_test_accuracy"]) == pytest.approx(best, rel=1e-4)
    recorded = folder / "rate-0.1" / "dense"
    config = json.loads((recorded / "config.json").read_text())["flags"]
    assert (config["seed"], config["validation_share"]) == (0, None)
    began = (recorded / "metrics.jsonl").stat().st_mtime_ns

    # A wider grid and further seeds go on where this ended.
    alone = [one for one in command[:-1] if not one.startswith("--pipeline=sign")]
    wider = [*alone, "--rate_grid=1e-4,0.1,1e6", "--num_seeds=2"]
    COMPARISON.main(wider)
    assert (recorded / "metrics.jsonl").stat().st_mtime_ns == began
    assert (folder / "rate-0.1" / "seed-1" / "dense" / "summary.json").exists()
    by_seed = [(row["seed"], row["rate"]) for row in table(folder / "seeds.csv")]
    assert by_seed == [("0", "0.1"), ("1", "0.1")]
    for row in table(folder / "table.csv"):
        assert (row["rate"], row["rate_at_edge"]) == ("0.1", "False")
    summary = json.loads((folder / "summary.json").read_text())
    assert [row["chosen"] for row in summary["rates"]] == [False, True, False]
    assert "Rates tried" in (folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.thorough
def test_clients_are_drawn_from_where_the_runs_lie(tmp_path):
    folder = tmp_path / "run"
    small = [*QUICK[:-2], QUICK[-1], "--num_rounds=2", "--eval_every=2", *GRID]
    COMPARISON.main(["", f"--workdir={folder}", *small, "--evaluate_clients=train"])
    assert (folder / "figures" / "client_accuracy.png").exists()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (GRID[:1], "--client_optimizer says rate, which is chosen from --rate_grid"),
        (GRID[1:], "--rate_grid: none of --client_optimizer says rate"),
        ([GRID[0], "--rate_grid=0.1"], "--rate_grid=0.1 leaves no choice"),
        ([GRID[0], "--rate_grid=0.1,-1"], "--rate_grid: '-1' is not a number above 0"),
        ([GRID[0], "--rate_grid=0.1,fast"], "'fast' is not a number above 0"),
        (["--validation_share=1.5"], "--validation_share=1.5 is outside (0, 1)"),
    ],
)
def test_what_is_no_grid_is_refused(tmp_path, capsys, flags, told):
    folder = tmp_path / "run"
    line = mistake(COMPARISON.main, capsys, [f"--workdir={folder}", *QUICK, *flags])
    assert told in line
    assert not folder.exists()


def test_what_a_run_that_chooses_cannot_do_is_told_before_anything_is_written(
    tmp_path, capsys
):
    folder = tmp_path / "run"
    flags = ["--quick", "--server_optimizer=sgd(rate)", "--rate_grid=0.03,0.1"]
    line = mistake(data_quantization, capsys, [f"--workdir={folder}", *flags])
    assert "--test_examples=2000 must be from 1 to 180" in line
    assert not folder.exists()


def of_clients():
    values = define()
    values(["", "--num_clients=10", "--cohort_size=2", "--validation_share=0.25"])
    population = build_federation(values).population
    return population.examples, population.test


def of_centres():
    values = define_of_a_centre()
    values(["", "--dataset=digits", "--model=linear()", "--validation_share=0.25"])
    problem = build_problem_of_centres(values)
    return problem.data.examples, problem.test


@pytest.mark.parametrize("built", [of_clients, of_centres])
def test_held_out_examples_are_of_the_training_set(built):
    train, test = built()
    whole = data.load("digits")
    assert len(test.y) == len(whole.train.y) // 4
    assert len(train.y) + len(test.y) == len(whole.train.y)

    def rows(examples):
        return {np.asarray(x).tobytes() for x in examples.x}

    assert rows(test) <= rows(whole.train)
    assert len(rows(test) & rows(whole.test)) == 0


def test_a_rate_is_a_word_and_no_argument():
    assert with_rate("adam(learning_rate=rate, eps=1e-8)", 0.3) == (
        "adam(learning_rate=0.3, eps=1e-8)"
    )
    kept = "importance(loss_score(), rate=0.5)"
    assert with_rate(kept, 0.3) == kept
    assert with_rate("eden_fixed_rate(1) | sgd(rate)", 3e-5) == (
        "eden_fixed_rate(1) | sgd(3e-05)"
    )


def test_fewer_rounds_to_a_target_come_before_accuracy():
    fast = {"rounds_to_target": 4, "best_test_accuracy": 0.9}
    slow = {"rounds_to_target": 5, "best_test_accuracy": 0.99}
    never = {"rounds_to_target": None, "best_test_accuracy": 0.8}
    lost = {"rounds_to_target": None, "best_test_accuracy": math.nan}
    order = sorted([lost, slow, never, fast], key=score, reverse=True)
    assert order == [fast, slow, never, lost]


def test_another_column_than_rounds_may_have_to_be_least():
    def tried(rounds, total, best):
        return {
            "rounds_to_target": rounds,
            "total_bytes_to_target": total,
            "best_test_accuracy": best,
        }

    cheap, fast = tried(30, 100, 0.95), tried(20, 300, 0.96)
    near, far = tried(None, None, 0.94), tried(None, None, 0.5)
    by_bytes = functools.partial(score, least="total_bytes_to_target")
    order = sorted([far, fast, near, cheap], key=by_bytes, reverse=True)
    assert order == [cheap, fast, near, far]
    for experiment in (FRONTIER, CENTRES, STREAMS, ADAPTIVE):
        assert experiment.tuning.least in experiment.columns


def test_every_rate_that_was_tried_is_told(capsys):
    tuning = Tuning((), {}, least="total_bytes")
    tried = [
        {"rate": 0.1, "reason": "", "rounds_to_target": 9, "total_bytes": 12345678},
        {"rate": 0.3, "reason": "", "best_test_accuracy": 0.98},
        {"rate": 1.0, "reason": "RunFailed: not finite", "best_test_accuracy": 0.1},
        {"rate": 3.0, "reason": ""},
    ]
    _print_rates(tuning, [Rated("a", 0.1, tried)])
    assert capsys.readouterr().out.startswith(
        "a: rate 0.1 (0.1: 9 rounds, 1.235e+07; 0.3: 98.00% at best; 1: failed; "
        "3: nothing); at the edge"
    )


def test_the_edge_is_where_the_grid_ends():
    tried = [{"rate": rate} for rate in (0.1, 0.3, 1.0)]
    found = [Rated("a", rate, tried).at_edge for rate in (0.1, 0.3, 1.0, None)]
    assert found == [True, False, True, False]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--rate_of=0.3"], "--rate_of='0.3' is not of the form 'NAME: RATE'"),
        (["--rate_of=dense: 0"], "--rate_of: '0' is not a number above 0"),
        (["--rate_of=dense: 1", "--rate_of=dense: 2"], "dense has two rates"),
        (["--rate_of=dnse: 1"], "there is no dnse; there are dense, sign"),
        (
            ["--rate_of=dense: 1"],
            "No rate is given for sign: add --rate_of='sign: 0.1'",
        ),
        (
            ["--rate_of=dense: 1", "--client_optimizer=sgd(0.1)"],
            "--rate_of: none of --client_optimizer says rate",
        ),
        (["--rate_of=dense: 1", "--rate_of="], "says rate, which is chosen from"),
        (["--rate_grid="], "says rate, which is chosen from --rate_grid"),
    ],
)
def test_a_rate_that_is_no_variants_is_refused(tmp_path, capsys, flags, told):
    folder = tmp_path / "run"
    given = [f"--workdir={folder}", *QUICK, GRID[0], *flags]
    assert told in mistake(COMPARISON.main, capsys, given)
    assert not folder.exists()


def test_a_variant_that_says_no_rate_is_given_none(tmp_path, capsys):
    folder = tmp_path / "run"
    given = ["--quick", "--pipeline=a: gradient(identity(), family='dense')"]
    given += ["--server_optimizer=sgd(0.1)", "--rate_of=a: 0.3"]
    line = mistake(data_quantization, capsys, [f"--workdir={folder}", *given])
    assert "--rate_of: none of --pipeline, --server_optimizer says rate" in line
    assert not folder.exists()


def test_known_rates_are_run_and_none_is_tried(tmp_path, capsys):
    folder = tmp_path / "run"
    small = [*QUICK, "--num_rounds=2", "--eval_every=2", GRID[0]]
    known = ["--rate_of=dense: 0.3", "--rate_of=sign: 0.1"]
    COMPARISON.main(["", f"--workdir={folder}", *small, *known])
    assert [row["rate"] for row in table(folder / "table.csv")] == ["0.3", "0.1"]
    assert not (folder / "tuning").exists()
    assert not (folder / "rates.csv").exists()
    own = folder / "rate-0.3" / "dense"
    config = json.loads((own / "config.json").read_text())["flags"]
    assert config["client_optimizer"] == "sgd(0.3)"
    assert (config["seed"], config["validation_share"]) == (0, None)
    assert "sign: rate 0.1\n" in capsys.readouterr().out

    # An emptied grid is none, and another rate goes into a directory of its own.
    other = [known[0], "--rate_of=sign: 1e-4", "--rate_grid="]
    COMPARISON.main(["", f"--workdir={folder}", *small, *other])
    assert (folder / "rate-0.0001" / "sign").exists()
    assert [row["rate"] for row in table(folder / "table.csv")] == ["0.3", "0.0001"]


@pytest.mark.thorough
def test_a_grid_is_tried_for_those_whose_rate_is_not_known(tmp_path):
    folder = tmp_path / "run"
    small = [*QUICK, "--num_rounds=2", "--eval_every=2", *GRID]
    COMPARISON.main(["", f"--workdir={folder}", *small, "--rate_of=dense: 0.3"])
    rows = table(folder / "table.csv")
    assert (rows[0]["rate"], rows[0]["rate_at_edge"]) == ("0.3", "")
    assert rows[1]["rate"] in ("0.0001", "0.1")
    assert {row["name"] for row in table(folder / "rates.csv")} == {"sign"}
