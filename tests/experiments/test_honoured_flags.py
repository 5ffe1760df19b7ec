"""Every experiment against every common flag: honoured, or refused by the command."""

import importlib

import pytest

from experiments.diloco.flags import NOT_HONOURED
from fedjax_comp.experiment.flags import (
    AUDITS,
    CONDITIONS,
    common_flags,
    run_flags,
    training_flags,
    without,
)
from tests.experiments.small import mistake

TARGET = ("target_accuracy", "stop_at_target")
OF_A_RUN, OF_TRAINING, OF_A_FEDERATION = (
    set(make()) for make in (run_flags, training_flags, common_flags)
)

REFUSED = {
    "fed_avg": (OF_A_FEDERATION, ()),
    "fed_avg.compare": (OF_A_FEDERATION, ()),
    "frontier": (OF_A_FEDERATION, ()),
    "fed_dlr": (OF_A_FEDERATION, ()),
    "diloco": (OF_A_FEDERATION, NOT_HONOURED),
    "adaptive": (
        OF_A_FEDERATION,
        (*AUDITS, "network", "report_goal", "uplink", "client_store"),
    ),
    "data_quantization": (
        OF_A_FEDERATION,
        ("uplink", "client_optimizer", *TARGET),
    ),
    "dynamic_averaging": (OF_TRAINING, ("num_rounds", *TARGET)),
    "approximate_synchronous": (
        OF_TRAINING,
        (
            *CONDITIONS,
            "uplink",
            "downlink",
            "num_rounds",
            "stop_at_target",
        ),
    ),
    "split_learning": (OF_TRAINING, (*CONDITIONS, *TARGET)),
    "split_learning.vertical": (OF_TRAINING, (*CONDITIONS, *TARGET)),
    "data_collaboration": (OF_A_RUN, ()),
    "data_dispatch": (OF_A_RUN, ()),
    "rate_distortion": (OF_A_RUN, ()),
    "robust": (OF_A_RUN, ()),
    "stream_minibatch": (OF_A_RUN, ("data_dir", "raw_dir")),
}
"""Experiment to the common flags it begins with, and those of them it takes away."""


def command(experiment):
    package, _, module = experiment.partition(".")
    found = importlib.import_module(f"experiments.{package}.{module or 'run'}")
    return found.main


@pytest.mark.parametrize("experiment", REFUSED)
def test_what_is_not_honoured_is_no_flag(experiment, tmp_path, capsys):
    main, (common, refused) = command(experiment), REFUSED[experiment]
    main([experiment, "--help"])
    shown = capsys.readouterr().out
    for name in common:
        assert (f"--{name}" in shown or f"--[no]{name}" in shown) == (
            name not in refused
        ), name
    for name in refused:
        flags = [f"--workdir={tmp_path / 'run'}", f"--{name}=1"]
        assert name in mistake(main, capsys, flags)
    assert not list(tmp_path.iterdir())


MISTAKES = {
    "network": "--network=4g()",
    "devices": "--devices=same('toaster')",
    "model": "--model=mpl(3)",
    "uplink": "--uplink=topk(0.1)",
}


@pytest.mark.parametrize(
    ("experiment", "flag"),
    [
        (experiment, flag)
        for experiment, (common, refused) in REFUSED.items()
        for flag in MISTAKES
        if flag in common - set(refused)
    ],
)
def test_a_mistake_leaves_nothing_behind(experiment, flag, tmp_path, capsys):
    flags = [f"--workdir={tmp_path / 'run'}", "--quick", MISTAKES[flag]]
    mistake(command(experiment), capsys, flags)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--audit_key=nowhere", "needs --audit_log"),
        ("--stop_at_target", "needs --target_accuracy"),
        ("--training_flops=3", "needs --devices"),
        ("--report_goal=2", "need links or devices"),
        ("--report_goal=50 --network=lognormal()", "more than --cohort_size=10"),
        ("--proximal=nan", "--proximal=nan: expected a number"),
        ("--deadline_seconds=-1 --network=constant(1)", "--deadline_seconds"),
        ("--audit_log --audit_key=nowhere", "nowhere"),
        ("--concurrency=3", "--concurrency"),
        ("--dp_delta=0.1", "needs --dp_clip"),
        ("--target_accuracy=2", "--target_accuracy=2"),
        ("--client_store=disk --devices=mixed()", "--devices: simulated links and"),
        ("--client_store=tape", "--client_store"),
    ],
)
def test_a_flag_without_its_companion_is_refused(tmp_path, capsys, flag, expected):
    flags = [f"--workdir={tmp_path / 'run'}", "--model=linear()", *flag.split()]
    assert expected in mistake(command("fed_avg"), capsys, flags)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("experiment", ["fed_avg.compare", "frontier", "fed_dlr"])
@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--uplink=qsgd(4)", "--uplink=qsgd(4): every variant names its own"),
        ("--downlink=qsgd(4)", "--downlink=qsgd(4): every variant names its own"),
        ("--seed=4294967295 --num_seeds=2", "the last seed is beyond 4294967295"),
        ("--dp_epsilon=3", "dp_epsilon"),
        ("--dp_delta=0.1", "dp_delta"),
        ("--dp_clip=1 --dp_epsilon=3 --dp_noise_multiplier=2", "dp_"),
        ("--pipeline=one: topk(0.1) | identity()", "--pipeline='one', its uplink"),
    ],
)
def test_a_comparison_refuses_what_its_runs_would_ignore(
    experiment, flag, expected, tmp_path, capsys
):
    flags = [f"--workdir={tmp_path / 'run'}", "--quick"]
    flags += [flag] if flag.startswith("--pipeline") else flag.split()
    assert expected in mistake(command(experiment), capsys, flags)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("experiment", "flags", "expected"),
    [
        ("diloco", ["--warm_steps=0", "--warm_batch=7"], "--warm_batch needs"),
        (
            "data_quantization",
            [
                "--cohort_size=2",
                "--pipeline=s: shipped(uniform_lattice(1, rounding='nearest'))",
            ],
            "s: shipped(...) takes all clients",
        ),
        (
            "approximate_synchronous",
            ["--bandwidth=nowhere.csv", "--nearest_ratio=2"],
            "--nearest_ratio is of the regions",
        ),
        ("approximate_synchronous", ["--compute_seconds=nan"], "--compute_seconds=nan"),
    ],
)
def test_what_would_be_ignored_is_refused(
    experiment, flags, expected, tmp_path, capsys
):
    flags = [f"--workdir={tmp_path / 'run'}", "--quick", *flags]
    assert expected in mistake(command(experiment), capsys, flags)
    assert not list(tmp_path.iterdir())


def test_taking_away_what_is_not_there_is_a_mistake():
    with pytest.raises(AttributeError, match="uplnik"):
        without(common_flags(), "uplnik")
