"""DP-FedAvg by flags: what the summary says, and that the noise is on the model."""

import json

import pytest

from experiments.fed_avg.flags import define
from experiments.fed_avg.privacy import privacy_spent
from experiments.fed_avg.run import main
from fedjax_comp.privacy.accounting import gaussian_epsilon, has_library

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
            ["--dp_clip=1", "--dp_noise_multiplier=0"],
            {"epsilon": None, "delta": 1e-5},
        ),
    ],
)
def test_epsilon_without_a_clip_and_without_noise(given, expected):
    values = define()
    values(["fed_avg", *given])
    assert privacy_spent(values)(None, None) == expected


def test_a_mistake_is_one_line_and_code_2(tmp_path, capsys):
    mistakes = [
        (["--dp_delta=1e-6"], "--dp_delta needs --dp_clip"),
        (["--dp_clip=-1"], "norm=-1"),
        (["--dp_clip=1", "--dp_noise_multiplier=-1"], "noise_multiplier=-1"),
        (["--dp_clip=1", "--dp_delta=2"], "delta=2"),
    ]
    if not has_library():
        mistakes.append((["--dp_clip=1", "--num_clients=9"], "fedjax_comp[privacy]"))
    for i, (flags, expected) in enumerate(mistakes):
        with pytest.raises(SystemExit) as stop:
            main(["fed_avg", f"--workdir={tmp_path / str(i)}", *COMMON, *flags])
        assert stop.value.code == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1, lines
        assert expected in lines[0]
