"""`fedjax-comp` hands over to the commands that there are."""

import importlib.util
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

import fedjax_comp
from fedjax_comp.__main__ import main

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def arguments(monkeypatch):
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(ROOT)
    # `python -m` finds it imported by nobody.
    monkeypatch.delitem(sys.modules, "experiments.fed_avg.compare", raising=False)


def mistake(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(["fedjax-comp", *arguments])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_help_names_every_command(capsys):
    main(["fedjax-comp"])
    without = capsys.readouterr().out
    main(["fedjax-comp", "--help"])
    assert capsys.readouterr().out == without
    assert all(name in without for name in ("report", "audit", "run", "records"))


def test_help_of_run_names_the_experiments(capsys):
    main(["fedjax-comp", "run", "--help"])
    out = capsys.readouterr().out
    assert "run NAME --workdir=DIR" in out
    assert "fed_avg, fed_dlr" in out


def test_a_mistake_is_one_line(capsys):
    assert "no command 'raport' but report, audit, run" in mistake(capsys, "raport")
    assert "no experiment '' but adaptive, " in mistake(capsys, "run")
    assert "fed_dlr" in mistake(capsys, "run", "fed_avgg")
    assert "no experiment" in mistake(capsys, "run", "fed_avg.nothing")
    assert "no experiment" in mistake(capsys, "run", "..main")
    # Those of the commands themselves stay theirs.
    assert mistake(capsys, "report").startswith("fedjax_comp.report: ")
    assert mistake(capsys, "audit", "replay", "nowhere").startswith("replay: ")
    assert "--workdir=DIR is required" in mistake(capsys, "run", "fed_avg.compare")


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("benchmark", {"cohort_round", "accelerator", "torch_topk"}),
        ("flower", {"loopback"}),
    ],
)
def test_a_set_of_commands_names_them(capsys, name, own):
    line = mistake(capsys, "run", name)
    assert line.startswith(f"experiments.{name} is a set of commands; run python -m")
    told = line.rpartition("one of ")[2].removesuffix(".").split(", ")
    assert own <= {one.removeprefix(f"experiments.{name}.") for one in told}
    for module in told:
        assert importlib.util.find_spec(module) is not None
    # Modules that compute for the others are no commands.
    assert not any("hlo_text" in one or "__main__" in one for one in told)


def test_without_the_repository_it_says_where_experiments_are(
    capsys, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "experiments", None)
    for command in (["run", "fed_avg"], ["records"]):
        assert "a copy of the repository" in mistake(capsys, *command)


def test_the_version_is_in_one_place():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" in project["project"]["dynamic"]
    assert version("fedjax_comp") == fedjax_comp.__version__
