"""Data against gradients: accounts against oracles, and what a run leaves behind."""

import csv
import json

import numpy as np
import pytest

from experiments.data_quantization.flags import define_run
from experiments.data_quantization.methods import build_method, parse_variants
from experiments.data_quantization.pipelines import PIPELINES, QUICK_PIPELINES
from experiments.data_quantization.plot import crossover_rows
from experiments.data_quantization.problem import build_problem
from experiments.data_quantization.run import (
    COLUMNS,
    COMPARISON,
    claims_of,
    complete,
    main,
    target_of,
)
from fedjax_comp.data import load
from fedjax_comp.experiment.comparison import Results
from fedjax_comp.report import Run
from tests.experiments.small import read_runs


def test_all_pipelines_are_valid_and_the_first_is_dense():
    variants = parse_variants(PIPELINES, "sgd(0.1)")
    families = [build_method(variant.method).family for variant in variants]
    assert families[0] == "dense"
    assert set(families) >= {"quantizer", "sparsifier", "low-rank", "data", "shipped"}
    assert set(QUICK_PIPELINES) <= set(PIPELINES)


def test_the_bytes_of_equal_accuracy():
    def row(step, accuracy, sent):
        bytes_sent = {"uplink_bytes": sent, "downlink_bytes": 0}
        return {"round": step, "test_accuracy": accuracy, **bytes_sent}

    def outcome(name, family, best):
        return {
            "name": name,
            "family": family,
            "best_test_accuracy": best,
            "audited_messages": 1,
            "audit_failures": 0,
            "reason": "" if best else "no memory",
        }

    rows = [
        outcome("dense", "dense", 0.9),
        outcome("sign", "quantizer", 0.896),
        outcome("slow", "quantizer", 0.5),
        outcome("data", "data", 0.897),
        outcome("broken", "data", None),
    ]
    curves = {
        "dense": [row(10, 0.8, 3200), row(20, 0.9, 6400)],
        "sign": [row(10, 0.7, 100), row(20, 0.896, 200)],
        "slow": [row(20, 0.5, 1)],
        "data": [row(10, 0.895, 8), row(20, 0.897, 16)],
    }
    results = Results(None, rows, [Run(*one) for one in curves.items()], None)
    complete(results)
    COMPARISON.compare(rows)
    assert target_of(rows) == pytest.approx(0.895)
    assert [one["rounds_to_target"] for one in rows] == [20, 20, None, 10, None]
    ratios = [one["uplink_bytes_to_target_ratio"] for one in rows]
    assert ratios == [1.0, 32.0, None, 800.0, None]
    failed, audits, fewer = claims_of(rows)
    assert (failed["measured"], failed["holds"]) == (1, False)
    assert audits["holds"]
    assert (fewer["measured"], fewer["holds"]) == (25.0, True)
    # When the first one failed there is no target, and nobody reached it.
    rows[0]["best_test_accuracy"] = None
    complete(results)
    assert {one["rounds_to_target"] for one in rows} == {None}


@pytest.mark.thorough
def test_the_crossover_has_the_rule_of_thumb_in_it():
    small, cnn, resnet20, resnet18 = crossover_rows()
    assert small["parameters"] == 199_210
    assert cnn["parameters"] == 1_663_370
    assert resnet20["parameters"] == 269_722
    assert resnet18["parameters"] == 11_173_962
    # 32 bits of scale a leaf, or for all of them.
    for row in (small, cnn, resnet20, resnet18):
        assert 0 <= row["gradient_1bit_bits"] - row["parameters"] <= 32 * 70
    assert small["largest_batch_4bit_below_1bit"] < 128
    assert cnn["largest_batch_1bit_below_1bit"] == 1024
    assert small["largest_batch_4bit_below_top_k_0.1%"] <= 2
    # A place among a thousand and a level: some 13 bits each.
    assert 12 < cnn["gradient_top_k_0.1%_bits"] / 1663 < 15


TASK = (
    "--quick",
    "--model=linear()",
    "--num_rounds=6",
    "--eval_every=3",
    "--audit_every=6",
    "--execution=scanned()",
    "--noprogress",
)


@pytest.mark.slow
def test_a_run_resumes_and_keeps_what_did_not_fail(tmp_path, capsys):
    weighted = "data(uniform_lattice(1), importance=importance(loss_score(), rate=0.5))"
    flags = [
        f"--workdir={tmp_path}",
        *TASK,
        "--pipeline=dense: gradient(identity(), family='dense')",
        f"--pipeline=data: {weighted}",
        "--pipeline=once: shipped(uniform_lattice(1))",
        "--pipeline=wrong: data(top_k(0.1))",
    ]
    main(["x", *flags])
    assert read_runs(tmp_path).keys() == {"dense", "data", "once", "wrong"}
    summary = json.loads((tmp_path / "summary.json").read_text())
    dense, data, once, wrong = summary["runs"]
    assert dense["uplink_bytes"] == 6 * 4 * 650 * 4
    assert 0 < data["uplink_bytes"] < 6 * 4 * (8 * 75 + 60) // 8
    assert data["audited_messages"] == 5
    # 1437 examples of a bit a pixel, a flag and a label, and four messages' counts.
    assert 0 <= once["uplink_bytes"] - 1437 * 69 / 8 < 4 * 8
    assert once["downlink_bytes"] == 0
    assert "index set" in wrong["reason"]
    failed, audits, *_ = summary["claims"]
    assert (failed["measured"], audits["measured"]) == (1, 0)
    with (tmp_path / "table.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert tuple(table[0]) == ("name", *COLUMNS, "reason")
    assert [line["name"] for line in table] == ["dense", "data", "once", "wrong"]
    assert (tmp_path / "report.html").read_text().count("data:image/png") == 4
    assert (tmp_path / "crossover.csv").exists()

    capsys.readouterr()
    main(["x", *flags])
    assert capsys.readouterr().out.count("nothing was changed") == 3
    assert json.loads((tmp_path / "summary.json").read_text()) == summary


def test_a_pipeline_has_its_own_rate_and_is_chosen_by_other_examples():
    values = define_run()
    values([""])
    values.dataset = "digits"
    values.method = "gradient(identity(), family='dense')"
    values.test_examples = 100
    recorded = build_problem(values).test
    values.validation = True
    chosen = build_problem(values).test
    assert recorded.y.shape == chosen.y.shape == (100,)
    whole = np.asarray(load("digits").test.x)
    np.testing.assert_array_equal(recorded.x, whole[:100])
    np.testing.assert_array_equal(chosen.x, whole[-100:])
    own, other = parse_variants(
        ["a: data(uniform_lattice(1)) | adam(0.01)", "b: data(uniform_lattice(1))"],
        "sgd(0.1)",
    )
    assert (own.server_optimizer, other.server_optimizer) == ("adam(0.01)", "sgd(0.1)")


@pytest.mark.thorough
def test_a_run_in_which_nobody_is_heard_is_a_row(tmp_path):
    late = ["--network=constant(1.0)", "--deadline_seconds=1e-9", "--num_rounds=1"]
    dense = "--pipeline=dense: gradient(identity(), family='dense')"
    with pytest.raises(SystemExit) as stop:
        main(["x", f"--workdir={tmp_path}", *TASK, *late, dense])
    assert stop.value.code == 1
    reason = read_runs(tmp_path)["dense"]["reason"]
    assert "nobody arrived in 1 round" in reason


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--pipeline=a: data(lattice(1))", "uniform_lattice"),
        ("--pipeline=a: top_k(0.1)", "not a method"),
        ("--pipeline=../a: data(identity())", "NAME: METHOD"),
        ("--pipeline=a: data(uniform_lattice(1)) | adma(0.1)", "did you mean 'adam'"),
        ("--validation", "from 1 to 180"),
        ("--pipeline=a: gradient(scaled_sign(), family='noise')", "family='noise'"),
        ("--local_epochs=2", "--local_epochs=2"),
        ("--batch_size=0", "--batch_size=0"),
        ("--uplink=identity()", "uplink"),
        ("--audit_log", "sends its data before the first round"),
        ("--cohort_size=11", "--cohort_size=11"),
        ("--dataset=mnits", "did you mean mnist"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(tmp_path, capsys, flag, expected):
    with pytest.raises(SystemExit) as stop:
        main(["x", f"--workdir={tmp_path}", *TASK, flag])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert expected in line
