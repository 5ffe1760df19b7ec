"""Recorded commands by name."""

import subprocess
from pathlib import Path

import pytest

from experiments import records
from experiments.records import all_records, chosen, main


def test_a_record_is_run_in_its_own_directory(tmp_path, monkeypatch):
    ran = []

    def run(command, check):
        del check
        ran.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(records.subprocess, "run", run)
    folder = f"--folder={tmp_path}"
    assert main(["fed_avg/mnist_2nn_iid", folder, "--seed=3"]) == 0
    ((_, *command),) = ran
    flags = Path(records.__file__).parent / "fed_avg/presets/mnist_2nn_iid.flags"
    assert command == [
        "-m",
        "experiments.fed_avg",
        f"--workdir={tmp_path}/fed_avg/mnist_2nn_iid",
        f"--flagfile={flags}",
        "--seed=3",
    ]


def test_names_are_listed_and_an_experiment_has_several(capsys):
    assert main([]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) == len(all_records())
    assert {x.name.partition("/")[0] for x in chosen("fed_avg")} == {"fed_avg"}
    assert len(chosen("fed_avg")) > 1


@pytest.mark.parametrize("name", ["frontier/mnis", "frontiers/mnist"])
def test_a_typo_is_told(name, capsys):
    assert main([name]) == 2
    assert "did you mean 'frontier/mnist'" in capsys.readouterr().err


@pytest.mark.thorough
def test_what_fails_is_not_success(tmp_path, capfd):
    folder = f"--folder={tmp_path}"
    assert main(["fed_avg/mnist_2nn_iid", folder, "--dataset=nothing"]) == 2
    assert "nothing" in capfd.readouterr().err
