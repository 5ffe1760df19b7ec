"""DP-FedAvg by flags: what the summary says, and that the noise is on the model."""

import importlib.util
import json

import pytest

from experiments.fed_avg import compare
from experiments.fed_avg.flags import define
from experiments.fed_avg.privacy import privacy_spent
from experiments.fed_avg.run import main
from fedjax_comp.experiment.finish import SPENT
from fedjax_comp.privacy.accounting import gaussian_epsilon
from fedjax_comp.privacy.solving import distributed_epsilon
from fedjax_comp.privacy.traced_noise import client_noise

COMMON = [
    "--quick",
    "--model=linear()",
    "--num_rounds=3",
    "--eval_every=3",
    "--audit_every=3",
    "--num_clients=5",
    "--cohort_size=5",
    "--client_optimizer=sgd(1.0)",
    "--uplink=top_k(0.5)",
    "--noprogress",
]


@pytest.mark.thorough
def test_epsilon_is_in_the_summary(tmp_path):
    """Everybody in every round: the closed form, for replacement."""
    dp = ["--dp_clip=0.5", "--dp_noise_multiplier=4"]
    main(["fed_avg", f"--workdir={tmp_path}", *COMMON, *dp])
    summary = json.loads((tmp_path / "summary.json").read_text())
    expected = gaussian_epsilon(noise_multiplier=2.0, rounds=3, delta=1e-5)
    assert summary["epsilon"] == expected
    assert summary["delta"] == 1e-5
    # The clipped uplink is audited as any other.
    assert summary["audited_messages"] > 0
    assert summary["audit_failures"] == 0


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], {}),
        (
            ["--dp_clip=1", "--dp_noise_multiplier=0", "--cohort_size=100"],
            {
                "epsilon": None,
                "delta": 1e-5,
                "noise_multiplier": 0.0,
                "accountant": "exact: Balle and Wang 2018, theorem 8",
            },
        ),
    ],
)
def test_epsilon_without_a_clip_and_without_noise(given, expected):
    values = define()
    values(["fed_avg", *given])
    assert privacy_spent(values)(None, None) == expected


@pytest.mark.thorough
@pytest.mark.parametrize("secure", [False, True])
def test_an_epsilon_is_solved_for_and_kept(tmp_path, capsys, secure):
    """The accountant agrees with what the summary, its row and the last line say."""
    own = ["--dp_clip=0.5", "--dp_epsilon=3", "--uplink=identity()"]
    own += ["--secure_sum"] * secure
    main(["fed_avg", f"--workdir={tmp_path}", *COMMON, *own])
    summary = json.loads((tmp_path / "summary.json").read_text())
    (row,) = summary["runs"]
    assert {name: row[name] for name in SPENT} == {n: summary[n] for n in SPENT}
    assert summary["audit_failures"] == 0
    z = summary["noise_multiplier"]
    if secure:  # the noise of four clients of five is enough
        n = 650
        noise = client_noise(clip=0.5, noise_multiplier=z, fewest=4, n=n)
        everyone = {"delta": 1e-5, "cohort_size": 5, "population": 5}
        told = distributed_epsilon(noise, n=n, fewest=4, rounds=3, **everyone)
        assert "Kairouz" in summary["accountant"]
    else:
        told = gaussian_epsilon(noise_multiplier=z / 2, rounds=3, delta=1e-5)
    assert summary["epsilon"] == told
    assert 2.98 < told <= 3
    assert f"private: epsilon {told:.4g} at delta 1e-05" in capsys.readouterr().out


@pytest.mark.thorough
def test_noise_that_was_solved_for_is_of_all_rounds(tmp_path, capsys):
    """More rounds would need more noise in those that are done."""
    own = ["--dp_clip=0.5", "--dp_epsilon=3", f"--workdir={tmp_path}"]
    main(["fed_avg", *COMMON, *own])
    with pytest.raises(SystemExit) as stop:
        main(["fed_avg", *COMMON, *own, "--num_rounds=6"])
    assert stop.value.code == 2
    assert "num_rounds" in capsys.readouterr().err


@pytest.mark.thorough
def test_a_secure_sum_by_its_flag_costs_what_it_sends(tmp_path):
    """650 residues and the count, 11 bits each, and the agreement of five clients."""
    own = ["--secure_sum", "--uplink=common_range(255, limit=0.5)"]
    main(["fed_avg", f"--workdir={tmp_path}", *COMMON, *own])
    summary = json.loads((tmp_path / "summary.json").read_text())
    each = -(-651 * 11 // 8) + 64 + 4 * 84 + 5 * 35
    assert summary["uplink_bytes"] == 3 * 5 * each
    # Keys and shares stand for no model: dense are five updates and models a round.
    assert summary["dense_uplink_bytes"] == 3 * 5 * 2600
    assert summary["dense_downlink_bytes"] == 3 * 5 * 2600
    assert summary["audited_messages"] == 5 + 1
    assert summary["audit_failures"] == 0
    assert "epsilon" not in summary


def test_a_mistake_is_one_line_and_code_2(tmp_path, capsys):
    mistakes = [
        (["--dp_delta=1e-6"], "--dp_delta needs --dp_clip"),
        (["--dp_clip=-1"], "--dp_clip=-1"),
        (["--dp_clip=0"], "--dp_clip=0"),
        (["--dp_clip=1", "--dp_noise_multiplier=-1"], "noise_multiplier=-1"),
        (["--dp_clip=1", "--dp_delta=2"], "delta=2"),
        (["--dp_epsilon=2"], "--dp_epsilon needs --dp_clip"),
        (["--dp_clip=1", "--dp_epsilon=0"], "epsilon=0"),
        (
            ["--dp_clip=1", "--dp_epsilon=2", "--dp_noise_multiplier=2"],
            "the one follows from the other",
        ),
        (["--secure_sum", "--algorithm=fed_nova()"], "--algorithm=fed_nova()"),
        (["--secure_sum"], "each client chooses its own coordinates"),
        (["--secure_sum", "--uplink=identity()"], "secure_fed_avg(levels=1023"),
        (
            ["--secure_sum", "--uplink=identity()", "--network=constant(1.0)"],
            "--network with a secure sum",
        ),
        (
            ["--dp_clip=1", "--algorithm=secure_fed_avg(levels=5, limit=1.0)"],
            "leave levels and limit out",
        ),
        (
            ["--dp_clip=1", "--secure_sum", "--uplink=common_range(5, limit=1.0)"],
            "an uplink of floats beside noise",
        ),
        (
            ["--dp_clip=1", "--algorithm=fed_nova()"],
            "epsilon is accounted for fed_avg() and secure_fed_avg()",
        ),
    ]
    if importlib.util.find_spec("dp_accounting") is None:
        mistakes.append((["--dp_clip=1", "--num_clients=9"], "fedjax_comp[privacy]"))
    for i, (flags, expected) in enumerate(mistakes):
        with pytest.raises(SystemExit) as stop:
            main(["fed_avg", f"--workdir={tmp_path / str(i)}", *COMMON, *flags])
        assert stop.value.code == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1, lines
        assert expected in lines[0]


def test_a_pipeline_that_cannot_be_summed_ends_the_comparison(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        compare.main(["", f"--workdir={tmp_path / 'x'}", "--quick", "--secure_sum"])
    assert stop.value.code == 2
    assert "--algorithm=fed_avg(unicast=True): sums under" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
