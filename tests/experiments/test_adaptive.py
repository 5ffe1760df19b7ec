"""The adaptive experiment and the flags of simulated networks, end to end."""

import csv
import json
import math

import jax
import pytest

from experiments.adaptive.flags import define
from experiments.adaptive.outcome import (
    COLUMNS,
    best_fixed,
    claims_of,
    compare,
    told,
)
from experiments.adaptive.run import compiled_once, main, shared_folder
from experiments.fed_avg.run import main as fed_avg_main
from fedjax_comp.experiment.seeds import claims_over_seeds
from fedjax_comp.run_directory import write_json
from tests.experiments.small import read_runs

TASK = (
    "--quick",
    "--model=linear()",
    "--num_clients=8",
    "--cohort_size=4",
    "--downlink=identity()",
    "--client_optimizer=sgd(1.0)",
    "--num_rounds=10",
    "--target_accuracy=0.5",
    "--execution=scanned()",
    "--noprogress",
    "--rung=0.25",
    "--rung=1",
)


@pytest.mark.thorough
def test_quick_run_compares_methods_and_resumes(tmp_path, capsys):
    flags = [
        f"--workdir={tmp_path}",
        *TASK,
        "--condition=3g: lognormal(0.2)",
        "--method=fixed-1",
        "--method=hardware-aware",
    ]
    main(["adaptive", *flags])
    summary = json.loads((tmp_path / "summary.json").read_text())
    first, aware = summary["runs"]
    assert read_runs(tmp_path).keys() == {"3g/fixed-1", "3g/hardware-aware"}
    assert first["reached"] == 1
    assert first["simulated_seconds_to_target_ratio"] == 1.0
    assert first["simulated_seconds_to_target"] > 0
    assert first["joules_to_target"] > 0
    assert [claim["target"] for claim in summary["claims"]] == [0]
    # Who is served worst, at the end and at the target, where the run stopped.
    assert 0 <= first["worst_client_accuracy"] <= first["worst_tenth_accuracy"] < 1
    assert first["worst_class_accuracy"] <= first["test_accuracy"]
    assert first["worst_class_accuracy_at_target"] == first["worst_class_accuracy"]
    # Every uplink byte is that of a rung: 650 coordinates, padded and with a scale.
    rungs = json.loads((tmp_path / "ladder.json").read_text())["rungs"]
    (row,) = read_runs(tmp_path / "3g/fixed-1").values()
    assert row["uplink_bytes_to_target"] == 4 * row["rounds_to_target"] * math.ceil(
        (rungs[1]["bits"] + 1) / 8
    )
    assert first["uplink_bytes_to_target"] == row["uplink_bytes_to_target"]
    with (tmp_path / "table.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert tuple(table[0]) == ("name", *COLUMNS, "reason")
    assert [line["method"] for line in table] == ["fixed-1", "hardware-aware"]
    assert "data:image/png" in (tmp_path / "report.html").read_text()
    capsys.readouterr()
    main(["adaptive", *flags])
    assert capsys.readouterr().out.count("nothing was changed") == 2
    assert json.loads((tmp_path / "summary.json").read_text())["runs"][1] == aware
    # Another directory with these costs has the same clock; one rung more has none.
    costs = f"--costs={tmp_path / 'ladder.json'}"
    again = tmp_path / "again"
    main(["adaptive", f"--workdir={again}", *flags[1:], costs])
    same = json.loads((again / "summary.json").read_text())["runs"]
    assert same == summary["runs"]
    capsys.readouterr()
    for more, words in (
        ("--rung=2", "no cost 'rung 2' of linear() on digits"),
        ("--model=mlp(8)", "'model' of mlp(8) on digits, but linear() on digits"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["", f"--workdir={tmp_path / 'more'}", *flags[1:], costs, more])
        assert stop.value.code == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "more").exists()


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--method=fixed-3", "hardware-aware"),
        ("--rung=3", "--rung='3'"),
        ("--method=fixed-4", "--method=fixed-4 needs --rung=4"),
        ("--condition=constant()", "NAME: NETWORK"),
        ("--condition=a: constnat()", "constant"),
        ("--validation_share=2", "--validation_share=2.0 is outside (0, 1)"),
        ("--network=constant()", "Unknown command line flag 'network'"),
        ("--devices=same('toaster')", "toaster"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(tmp_path, capsys, flag, expected):
    with pytest.raises(SystemExit) as stop:
        main(["", f"--workdir={tmp_path}", *TASK, "--method=fixed-1", flag])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert expected in line


@pytest.mark.thorough
def test_any_experiment_can_be_timed(tmp_path, capsys):
    flags = [
        f"--workdir={tmp_path}",
        "--quick",
        "--model=linear()",
        "--num_clients=6",
        "--cohort_size=3",
        "--num_rounds=3",
        "--eval_every=1",
        "--audit_every=0",
        "--checkpoint_every=0",
        "--noprogress",
        "--network=constant(0.1, loss=0.05)",
        "--devices=mixed()",
        "--deadline_seconds=30",
    ]
    fed_avg_main(["fed_avg", *flags])
    summary = json.loads((tmp_path / "summary.json").read_text())
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    seconds = [json.loads(line)["simulated_seconds"] for line in lines]
    assert seconds[0] == 0.0
    assert sorted(seconds) == seconds
    # Two messages of 2,600 bytes at 100 and 71 kbit/s, three times, and latencies.
    sending = 8 * 2600 * (1 / 1e5 + 1 / 7.1e4) + 0.1
    assert 3 * sending < seconds[-1] == summary["simulated_seconds"] < 9 * sending
    assert summary["joules"] > 0
    assert (tmp_path / "figures" / "accuracy_against_time.png").exists()
    capsys.readouterr()
    with pytest.raises(SystemExit):
        fed_avg_main(
            ["fed_avg", f"--workdir={tmp_path}/b", "--quick", "--deadline_seconds=1"]
        )
    assert "--network" in capsys.readouterr().err


def row(method, seconds, condition="3g"):
    return {
        "name": f"{condition}/{method}",
        "condition": condition,
        "method": method,
        "simulated_seconds_to_target": seconds,
        "reason": "",
    }


def test_claims_are_against_the_best_fixed_setting():
    rows = [
        row("fixed-1", 30.0),
        row("fixed-4", 20.0),
        row("fixed-1-8of10", 15.0),
        row("fixed-2", None),
        row("hardware-aware", 10.0),
        row("fixed-1", 6.0, "constant"),
        row("water-filling", 8.0, "constant"),
    ]
    on_3g = rows[:5]
    assert best_fixed(on_3g)["method"] == "fixed-4"
    assert best_fixed(on_3g, over_selected=True)["method"] == "fixed-1-8of10"
    compare(rows)
    ratios = [one["simulated_seconds_to_target_ratio"] for one in rows]
    assert ratios == [0.6667, 1.0, 1.3333, None, 2.0, 1.0, 0.75]
    failed, *claims = claims_of(rows, quick=False)
    assert failed["holds"]
    assert [claim["measured"] for claim in claims] == [2.0, 1.5, 0.75]
    assert [claim["target"] for claim in claims] == [1.5, 1.5, 0.95]
    assert [claim["holds"] for claim in claims] == [True, True, False]
    # Of those who let everyone speak the soonest is held to be sooner.
    spoken = [row("everyone-1", 12.0), row("everyone-4", 16.0)]
    _, *claims = claims_of([*on_3g[:4], *spoken], quick=False)
    assert [claim["measured"] for claim in claims] == [1.6667, 1.25]
    assert all("everyone (everyone-1) sooner" in claim["name"] for claim in claims)
    # With the shortest message for all it is that fixed setting, and not sooner.
    _, claim = claims_of([row("fixed-1", 9.0), row("everyone-1", 9.0)], quick=False)
    assert (claim["measured"], claim["holds"]) == (1.0, False)
    assert claims_of([row("fixed-1", None)], quick=False) == [failed]
    assert claims_of(rows, quick=True) == [failed]


def test_what_is_told_of_a_run():
    missed = {**dict.fromkeys(COLUMNS), "fairness": 1}
    assert told(missed)["reached"] == 0
    assert told(missed)["uplink_share"] is None
    costs = {"uplink_bytes_to_target": 2, "total_bytes_to_target": 8}
    reached = told({**missed, **costs, "rounds_to_target": 3})
    assert (reached["reached"], reached["uplink_share"]) == (1, 0.25)
    assert "fairness" not in reached


def test_claims_over_seeds_are_beyond_their_noise():
    def claims(*seconds):
        each = [
            claims_of([row(best, 15.0), row("hardware-aware", s)], quick=False)
            for best, s in zip(("fixed-1", "fixed-4", "fixed-2"), seconds, strict=True)
        ]
        return claims_over_seeds(each)[1]

    assert claims(8.0, 8.1, 7.9)["holds"]
    # Once much sooner and twice a little: 2.9 in the mean, and no reason to say so.
    lucky = claims(10.6, 10.6, 2.5)
    assert lucky["measured"] > 2.9
    assert not lucky["holds"]
    name = "3g: hardware-aware sooner than the best fixed setting, for all"
    assert lucky["name"] == name


def test_all_runs_of_a_command_share_its_directory_and_no_other(tmp_path):
    def shared(*parts):
        values = define()
        values(["", f"--workdir={tmp_path.joinpath(*parts)}"])
        return shared_folder(values).relative_to(tmp_path).as_posix()

    for name, experiment in (("ours", "adaptive"), ("seed-7", "adaptive"), ("b", "c")):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "config.json", {"experiment": experiment})
    (tmp_path / "b" / "seed-3").mkdir()
    (tmp_path / "b" / "seed-3" / "config.json").write_text("{}")
    assert shared("ours") == "ours"
    assert shared("ours", "seed-1") == "ours"
    assert shared("ours", "tuning", "rate-0.1") == "ours"
    assert shared("ours", "rate-1e-05", "seed-2") == "ours"
    assert shared("ours", "other") == "ours/other"
    # A directory that is called like a part is one only below a command's own.
    assert shared("seed-7") == "seed-7"
    assert shared("seed-7", "seed-8") == "seed-7"
    assert shared("b", "rate-0.3") == "b/rate-0.3"
    assert shared("b", "seed-3", "rate-0.3") == "b/seed-3/rate-0.3"


@pytest.mark.thorough
def test_each_method_may_have_a_rate_of_its_own(tmp_path, capsys):
    flags = [*TASK, "--condition=slow: constant(0.2)", "--method=fixed-1"]
    grid = ["--client_optimizer=sgd(rate)", "--rate_grid=0.001,1.0"]
    main(["adaptive", f"--workdir={tmp_path}", *flags, *grid])
    assert "slow/fixed-1: rate 1 (0.001: " in capsys.readouterr().out
    assert len(list(tmp_path.rglob("ladder.json"))) == 1
    assert (tmp_path / "rate-1" / "slow" / "fixed-1" / "summary.json").exists()


@pytest.mark.thorough
def test_seeds_share_costs_and_programs(tmp_path, capsys):
    flags = [
        *(f"--workdir={tmp_path}", *TASK, "--num_seeds=2", "--num_rounds=4"),
        *("--condition=3g: lognormal(0.2)", "--method=fixed-1"),
    ]
    main(["adaptive", *flags])
    assert read_runs(tmp_path).keys() == {"3g/fixed-1"}
    assert (tmp_path / "seed-1/3g/fixed-1/summary.json").exists()
    assert (tmp_path / "ladder.json").exists()
    assert {path.name for path in (tmp_path / "seed-1").iterdir()} == {"3g"}
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["seeds"] == [0, 1]
    assert summary["runs"][0]["simulated_seconds_sd"] > 0
    capsys.readouterr()


@pytest.mark.parametrize("own", [None, "own"])
def test_programs_are_kept_in_the_run_or_where_the_user_keeps_them(tmp_path, own):
    before = jax.config.jax_compilation_cache_dir
    given = None if own is None else str(tmp_path / own)
    jax.config.update("jax_compilation_cache_dir", given)
    try:
        with compiled_once(tmp_path / "run"):
            used = jax.config.jax_compilation_cache_dir
        assert used == (given or str(tmp_path / "run"))
        assert jax.config.jax_compilation_cache_dir == given
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
