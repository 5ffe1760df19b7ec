"""The command: what it leaves behind, and how it answers mistakes."""

import json
import shutil

import jax
import numpy as np
import pytest

from experiments.fed_avg import compare
from experiments.fed_avg.run import main
from fedjax_comp.experiment import lateness
from fedjax_comp.experiment.finish import read_rows
from tests.experiments.small import read_runs

SUMMARY_KEYS = {
    "experiment",
    "dataset",
    "model",
    "num_parameters",
    "num_clients",
    "rounds",
    "test_accuracy",
    "best_test_accuracy",
    "rounds_to_target",
    "uplink_bytes",
    "downlink_bytes",
    "dense_uplink_bytes",
    "dense_downlink_bytes",
    "audited_messages",
    "audit_failures",
    "seconds_total",
    "seconds_per_round",
    "client_steps_per_second",
    "compile_seconds",
    "peak_memory_bytes",
    "params_sha256",
    "claims",
}
ROW_KEYS = {
    "round",
    "test_accuracy",
    "test_loss",
    "train_loss",
    "uplink_bytes",
    "downlink_bytes",
    "seconds",
}


@pytest.mark.thorough
def test_quick_run_leaves_everything_behind(tmp_path, capsys):
    flags = [
        f"--workdir={tmp_path}",
        "--quick",
        "--model=linear()",
        "--num_rounds=6",
        "--eval_every=2",
        "--audit_every=3",
        "--target_accuracy=0.2",
        "--client_optimizer=sgd(1.0)",
        "--uplink=error_feedback(chain(top_k(0.1), qsgd(4), entropy_coded()))",
        "--downlink=to_dtype('bfloat16')",
        "--noprogress",
    ]
    main(["fed_avg", *flags])
    out = capsys.readouterr().out
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary.keys() >= SUMMARY_KEYS
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["round"] for row in rows] == [0, 2, 4, 6]
    assert all(row.keys() == ROW_KEYS for row in rows)
    # Linear on 8x8: 650 numbers; bfloat16 halves the downlink to the bit.
    assert summary["num_parameters"] == 650
    assert summary["downlink_bytes"] == 6 * 10 * 650 * 2
    assert summary["dense_downlink_bytes"] == 6 * 10 * 650 * 4
    assert 0 < summary["uplink_bytes"] < summary["dense_uplink_bytes"] / 20
    assert summary["audited_messages"] == 2 * (10 + 1)
    assert summary["audit_failures"] == 0
    assert all(claim["holds"] for claim in summary["claims"])
    assert len(summary["params_sha256"]) == 64
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["flags"]["uplink"].startswith("error_feedback(")
    assert (tmp_path / "report.html").read_text().count("data:image/png") == 2
    assert len(list((tmp_path / "figures").glob("*.png"))) == 2
    assert list((tmp_path / "events").glob("events.out.tfevents.*"))
    assert list((tmp_path / "checkpoints").iterdir())
    assert str(tmp_path / "report.html") in out

    main(["fed_avg", *flags])
    assert "nothing was changed" in capsys.readouterr().out


def test_training_learns(tmp_path):
    main(
        [
            "fed_avg",
            f"--workdir={tmp_path}",
            "--model=linear()",
            "--num_rounds=40",
            "--eval_every=40",
            "--checkpoint_every=0",
            "--noprogress",
        ]
    )
    assert json.loads((tmp_path / "summary.json").read_text())["test_accuracy"] > 0.85


LATE = {
    "buffered": ["--concurrency=12", "--cohort_size=4", "--audit_every=6"],
    "carried": ["--report_goal=4", "--late_updates=carry", "--max_staleness=3"],
}


@pytest.mark.parametrize("kind", LATE)
@pytest.mark.slow
def test_late_updates_are_trained_on(tmp_path, monkeypatch, kind):
    """The clock is the timetable's, and a second start from a checkpoint goes by it."""
    flags = [
        "--noprogress",
        "--network=markov()",
        "--num_clients=20",
        "--model=linear()",
        "--eval_every=3",
        "--checkpoint_every=3",
        "--uplink=chain(stochastic_quantize(16), entropy_coded(symbols=elias_gamma()))",
        *LATE[kind],
    ]
    whole, part = tmp_path / "whole", tmp_path / "part"
    main(["", f"--workdir={whole}", "--num_rounds=6", *flags])
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["observed"]["staleness"] > 0
    assert summary["audit_failures"] == 0
    times = [row["simulated_seconds"] for row in read_rows(whole)]
    assert times[0] == 0.0
    assert (np.diff(times) > 0).all()
    assert summary["simulated_seconds"] == times[-1]

    def dies(table):
        clock = timetable_clock(table)

        def after(live, state, dispatch):
            clock.after(live, state, dispatch)
            if live.ledger.rounds > 3:
                raise MemoryError

        return clock._replace(after=after)

    timetable_clock = lateness.timetable_clock
    part.mkdir()
    # What a message costs is measured once a directory, and never twice the same.
    shutil.copy(whole / "costs.json", part)
    with monkeypatch.context() as patch:
        patch.setattr(lateness, "timetable_clock", dies)
        with pytest.raises(MemoryError):
            main(["", f"--workdir={part}", "--num_rounds=6", *flags])
    main(["", f"--workdir={part}", "--num_rounds=6", *flags])
    again = json.loads((part / "summary.json").read_text())
    for name in ("params_sha256", "simulated_seconds", "joules", "uplink_bytes"):
        assert again[name] == summary[name]


def test_lateness_and_privacy_do_not_mix(tmp_path, capsys):
    flags = ["--network=constant(1.0)", "--concurrency=20", "--dp_clip=1.0"]
    line = mistake(capsys, [f"--workdir={tmp_path / 'run'}", "--noprogress", *flags])
    assert "--dp_clip" in line
    line = mistake(
        capsys, [f"--workdir={tmp_path / 'x'}", *flags[:1], "--concurrency=95"]
    )
    assert "--concurrency=95" in line


@pytest.mark.thorough
def test_comparison_is_side_by_side(tmp_path, capsys):
    flags = [
        f"--workdir={tmp_path}",
        "--quick",
        "--model=linear()",
        "--num_rounds=4",
        "--audit_every=4",
        "--pipeline=dense: identity() | identity()",
        "--pipeline=half: to_dtype('bfloat16') | to_dtype('bfloat16')",
        "--noprogress",
    ]
    compare.main(["compare", *flags])
    summary = json.loads((tmp_path / "summary.json").read_text())
    runs = read_runs(tmp_path)
    dense, half = runs["dense"], runs["half"]
    assert summary["runs"] == [dense, half]
    assert 2 * half["uplink_bytes"] == dense["uplink_bytes"]
    assert half["total_bytes"] == half["uplink_bytes"] + half["downlink_bytes"]
    assert half["uplink_bytes_ratio"] == half["total_bytes_ratio"] == 2.0
    assert dense["audited_messages"] == 11
    assert (tmp_path / "half" / "summary.json").exists()
    assert (tmp_path / "report.html").exists()
    out = capsys.readouterr().out
    assert "2.0x" in out
    assert str(tmp_path / "report.html") in out


def mistake(capsys, flags, command=main):
    with pytest.raises(SystemExit) as stop:
        command(["fed_avg", *flags])
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("--local_epochs=2", "--local_epochs: give one of the two"),
        ("--batch_size=0", "needs a --batch_size"),
        ("--concurrency=3", "leave it out"),
    ],
)
def test_local_steps_alone_say_how_long_a_client_trains(tmp_path, capsys, flag, told):
    flags = [f"--workdir={tmp_path / 'run'}", "--local_steps=4", flag]
    network = ["--network=lognormal()"] * ("concurrency" in flag)
    assert told in mistake(capsys, [*flags, *network])


@pytest.mark.thorough
def test_dropout_augmentation_and_lasting_optimizers_by_flags(tmp_path):
    folder = tmp_path / "run"
    flags = [
        f"--workdir={folder}",
        "--noprogress",
        "--model=mlp(16, dropout=0.2)",
        "--augmentation=crop_and_flip(1, flip=False)",
        "--algorithm=diloco()",
        "--client_optimizer=adamw(0.003)",
        "--server_optimizer=sgd(0.7, momentum=0.9, nesterov=True)",
        "--num_clients=4",
        "--cohort_size=4",
        "--local_steps=20",
        "--num_rounds=30",
        "--eval_every=30",
    ]
    with jax.numpy_dtype_promotion("standard"):  # as Adam has it
        main(["", *flags])
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["best_test_accuracy"] > 0.7


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--dataset=mnits", "did you mean mnist"),
        ("--cohort_size=101", "--num_clients=100"),
        ("--num_rounds=0", "num_rounds"),
        ("--num_clients=0", "num_clients"),
        ("--batch_size=-1", "batch_size"),
        ("--local_steps=0", "local_steps"),
        ("--augmentation=crop_and_flip(-1)", "padding=-1"),
        ("--client_optimizer=sgd(nan)", "nan"),
        ("--client_optimizer=sgd(1e999)", "too large at column 5"),
        ("--client_optimizer=top_k(0.1)", "unknown name 'top_k'"),
        ("--proximal=nan", "proximal"),
        ("--target_accuracy=99", "--target_accuracy=99"),
        ("--uplink=topk(0.1)", "did you mean 'top_k'"),
        ("--uplink=top_k(1.5)", "fraction=1.5"),
        ("--uplink=top_k(fractoin=0.1)", "fractoin"),
        ("--uplink=top_k", "top_k("),
        ("--uplink=__import__('os')", "__import__"),
        ("--uplink=chain(scaled_sign(), top_k(0.1))", "open"),
        ("--uplink=top_k(0.1", "--uplink"),
        ("--model=cnn", "cnn("),
        ("--partition=shards(0)", "per_client=0"),
        ("--partition=natural()", "natural groups"),
        ("--execution=chunked(0)", "size=0"),
        ("--concurrency=20", "--network="),
        ("--late_updates=carry", "--deadline_seconds"),
        ("--late_updates=keep", "drop|carry"),
        ("--max_staleness=3", "--concurrency"),
        ("--no_such_flag=1", "no_such_flag"),
        ("--seed=x", "seed"),
        ("extra", "extra"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(tmp_path, capsys, flag, expected):
    line = mistake(capsys, [f"--workdir={tmp_path / 'run'}", "--noprogress", flag])
    assert expected in line


def test_workdir_mistakes(tmp_path, capsys):
    assert "--workdir" in mistake(capsys, [])
    (tmp_path / "file").write_text("")
    line = mistake(capsys, [f"--workdir={tmp_path / 'file'}"])
    assert "cannot be written" in line


def test_pipeline_mistakes(tmp_path, capsys):
    for text, expected in (
        ("dense identity()", "NAME: UPLINK | DOWNLINK"),
        ("a: topk(1) | identity()", "top_k"),
        ("../a: identity() | identity()", "NAME: UPLINK | DOWNLINK"),
    ):
        flags = [f"--workdir={tmp_path}", f"--pipeline={text}"]
        assert expected in mistake(capsys, flags, compare.main)


CLIENTS = ["--quick", "--num_rounds=2", "--model=linear()", "--noprogress"]


@pytest.mark.thorough
def test_clients_are_evaluated_into_summary_table_and_figure(tmp_path):
    flags = [*CLIENTS, "--evaluate_clients=train", "--partition=dirichlet(0.1)"]
    main(["fed_avg", f"--workdir={tmp_path}", *flags])
    summary = json.loads((tmp_path / "summary.json").read_text())
    path = tmp_path / "clients.csv"
    read = np.genfromtxt(path, delimiter=",", names=True)
    known = read["num_examples"] > 0
    assert len(read) == 100
    assert read["num_examples"].sum() == 1437  # all training examples, each once
    assert summary["clients_without_examples"] == (~known).sum() > 0
    assert np.isnan(read["accuracy"][~known]).all()
    own = np.sort(read["accuracy"][known])
    tenth = own[: -(-len(own) // 10)].mean()
    assert summary["evaluate_clients"] == "train"
    assert summary["client_accuracy_worst_tenth"] == pytest.approx(tenth, abs=1e-5)
    assert summary["client_accuracy_mean"] == pytest.approx(own.mean(), abs=1e-5)
    row = read_runs(tmp_path)["fed_avg"]
    assert row["client_accuracy_median"] == summary["client_accuracy_median"]
    assert (tmp_path / "figures" / "client_accuracy.png").is_file()


@pytest.mark.thorough
def test_a_comparison_has_columns_of_clients_where_they_are_evaluated(tmp_path):
    flags = [*CLIENTS, "--pipeline=dense: identity() | identity()"]
    compare.main(["compare", f"--workdir={tmp_path / 'without'}", *flags])
    flags.append("--evaluate_clients=train")
    compare.main(["compare", f"--workdir={tmp_path / 'with'}", *flags])
    header = "client_accuracy_worst_tenth"
    assert header not in (tmp_path / "without" / "table.csv").read_text()
    assert header in (tmp_path / "with" / "table.csv").read_text()
    assert 0 <= read_runs(tmp_path / "with")["dense"][header] < 1
    assert (tmp_path / "with" / "figures" / "client_accuracy.png").is_file()


@pytest.mark.thorough
def test_rates_follow_a_schedule_and_clients_are_drawn_by_their_sizes(tmp_path, capsys):
    flags = [*CLIENTS, "--partition=dirichlet(1.0)", "--num_clients=20"]
    flags += ["--cohort_size=4", "--client_sampling=by_size"]
    still = "--client_schedule=piecewise_constant_schedule(0.0, {1: 0.0})"
    main(["fed_avg", f"--workdir={tmp_path / 'still'}", *flags, still])
    first, *_, last = read_rows(tmp_path / "still")
    assert first["test_loss"] == last["test_loss"]
    fading = "--client_schedule=cosine_decay_schedule(1.0, 2)"
    main(["fed_avg", f"--workdir={tmp_path / 'fading'}", *flags, fading])
    assert read_runs(tmp_path / "fading")["fed_avg"]["test_accuracy"] > 0.2
    for wrong, told in (
        ("--client_schedule=cosine_decay(1.0,2)", "cosine_decay_schedule"),
        ("--cohort_size=20", "--cohort_size may be"),
        ("--concurrency=8 --network=lognormal()", "cohorts of their own"),
        ("--client_sampling=by_age", "by_size"),
    ):
        given = [f"--workdir={tmp_path / 'wrong'}", *flags, *wrong.split(" ")]
        assert told in mistake(capsys, given)
    assert not (tmp_path / "wrong").exists()


@pytest.mark.thorough
def test_clients_with_models_of_their_own_are_evaluated_with_these(tmp_path, capsys):
    flags = [*CLIENTS, "--evaluate_clients=train", "--partition=dirichlet(0.1)"]
    flags += ["--cohort_size=100", "--audit_log"]  # whose hook wraps the algorithm
    worst = {}
    for name in ("fed_avg()", "ditto(pull=0.0)"):
        workdir = tmp_path / name
        main(["fed_avg", f"--workdir={workdir}", *flags, f"--algorithm={name}"])
        summary = json.loads((workdir / "summary.json").read_text())
        worst[name] = summary["client_accuracy_worst_tenth"]
    # A client alone knows its few classes; the common model not yet all of them.
    assert worst["ditto(pull=0.0)"] > worst["fed_avg()"] + 0.1
    flags = [f"--workdir={tmp_path / 'disk'}", *flags, "--client_store=disk"]
    assert "must be at hand" in mistake(capsys, [*flags, "--algorithm=ditto(pull=0.1)"])
    assert not (tmp_path / "disk").exists()


def test_refuses_held_out_examples_of_nobody(tmp_path, capsys):
    flags = [f"--workdir={tmp_path / 'run'}", *CLIENTS, "--evaluate_clients=held_out"]
    assert "digits names no groups" in mistake(capsys, flags)
    assert not list(tmp_path.iterdir())
