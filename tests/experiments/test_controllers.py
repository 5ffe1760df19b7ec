"""Budgets of a run: set by a controller, kept and shown, or refused in a line."""

import json

import pytest

from experiments.fed_avg.run import main
from fedjax_comp.experiment.controllers import heeds_budget
from fedjax_comp.experiment.finish import read_rows

RUN = (
    "--quick",
    "--noprogress",
    "--model=linear()",
    "--num_clients=8",
    "--cohort_size=4",
    "--num_rounds=4",
    "--eval_every=2",
    "--audit_every=2",
    "--network=lognormal(0.02)",
    "--devices=mixed()",
    "--execution=vmapped()",
)
LADDER = "--uplink=ladder(scaled_sign(), qsgd(3), qsgd(100))"


@pytest.mark.thorough
def test_a_controller_chooses_and_the_run_shows_what(tmp_path, capsys):
    flags = [
        f"--workdir={tmp_path}",
        *RUN,
        LADDER,
        "--controller=hardware_aware(kappa=0.1)",
    ]
    main(["fed_avg", *flags])
    printed = capsys.readouterr().out
    assert " simulated s, " in printed
    assert " J, " in printed
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["audited_messages"] > 4
    assert summary["audit_failures"] == 0
    curve = json.loads((tmp_path / "costs.json").read_text())["curve"]
    counts = {
        rung["bits"]: summary["observed"][f"messages_within_{rung['bits']}_bits"]
        for rung in curve
    }
    assert 8 < sum(counts.values()) <= 16
    sent = sum(count * -(-bits // 8) for bits, count in counts.items())
    assert summary["uplink_bytes"] == sent
    _, first, *_, last = read_rows(tmp_path)
    assert all(n <= last["observed"][k] for k, n in first["observed"].items())
    report = (tmp_path / "report.html").read_text()
    assert "Messages within each budget" in report


@pytest.mark.thorough
def test_a_fixed_budget_is_kept(tmp_path):
    flags = [
        f"--workdir={tmp_path}",
        *RUN,
        "--uplink=budgeted_top_k(1.0)",
        "--controller=fixed(2.0)",
    ]
    main(["fed_avg", *flags])
    summary = json.loads((tmp_path / "summary.json").read_text())
    numbers = summary["num_parameters"]
    assert 0 < summary["uplink_bytes"] <= 16 * -(-2 * numbers // 8)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--uplink=budgeted_top_k(1.0)",), "nobody tells budgeted_top_k its budget"),
        (("--downlink=budgeted_quantize(4)",), "take a compressor without one"),
        (("--controller=fixed(1.0)",), "heeds no budget"),
        (
            ("--controller=fixed(1.0)", LADDER, "--network=", "--devices="),
            "needs links or devices",
        ),
        (
            ("--controller=hardware_aware(kappa=-1)", LADDER),
            "Expected kappa=-1",
        ),
        (("--controller=hardware()", LADDER), "did you mean 'hardware_aware'"),
    ],
)
def test_what_nobody_sets_or_heeds_is_refused(tmp_path, capsys, flags, words):
    with pytest.raises(SystemExit) as ended:
        main(["fed_avg", f"--workdir={tmp_path / 'run'}", *RUN, *flags])
    assert ended.value.code == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.thorough
def test_costs_of_another_run_set_the_clock(tmp_path, capsys):
    def seconds(name, *flags):
        main(["fed_avg", f"--workdir={tmp_path / name}", *RUN, *flags])
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        return summary["simulated_seconds"]

    first = seconds("a", "--uplink=qsgd(3)")
    file = tmp_path / "a" / "costs.json"
    costs = json.loads(file.read_text())
    assert costs["of"]["training"] == "linear() on digits"
    # Forward, and backward to the weights: four a weight, 650 of them.
    assert 1 < costs["training_flops"] / (4 * 640) < 1.2
    assert seconds("b", "--uplink=qsgd(3)", f"--costs={file}") == first
    capsys.readouterr()
    for flag, words in (
        ("--uplink=qsgd(4)", "'uplink' of qsgd(4)"),
        ("--costs=nowhere", "no such file"),
        ("--network= --devices=", "--costs needs links"),
    ):
        flags = ["--uplink=qsgd(3)", f"--costs={file}", *flag.split()]
        with pytest.raises(SystemExit) as ended:
            main(["fed_avg", f"--workdir={tmp_path / 'c'}", *RUN, *flags])
        assert ended.value.code == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


def test_budgets_are_found_wherever_they_are():
    nested = "error_feedback(flattened(ladder(eden(1), eden(2))))"
    assert heeds_budget(nested) == "ladder"
    assert heeds_budget("power_sgd(2)") == ""
