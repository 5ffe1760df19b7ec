"""The recipes of CONTRIBUTING.md are what the project does, line by line."""

import re
import sys
from pathlib import Path

import pytest

from tests.experiments.small import read_runs

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
RECIPES = dict(re.findall(r"^## (\d\. [^\n]+)\n(.*?)(?=^## |\Z)", TEXT, re.M | re.S))


def parts(recipe):
    """Path to added lines, of all diffs of a recipe."""
    found = {}
    for diff in re.findall(r"```diff\n(.*?)```", recipe, re.S):
        path = None
        for line in diff.splitlines():
            if line.startswith("+++ "):
                path = line[4:]
                found[path] = []
            else:
                found[path].append(line.removeprefix("+"))
    return found


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_line_of_a_recipe_stands_in_the_file_it_names(name):
    found = parts(RECIPES[name])
    if not found:
        assert "```python" in RECIPES[name]
    for path, lines in found.items():
        source = (ROOT / path).read_text(encoding="utf-8").splitlines()
        places = [source.index(line) for line in lines]  # ValueError names the line
        assert places == sorted(places), path


def test_there_are_six_recipes():
    assert [name[3:] for name in RECIPES] == [
        "A compressor",
        "An algorithm",
        "A model",
        "A data set",
        "An experiment",
        "A flag",
    ]


@pytest.mark.thorough
def test_the_experiment_runs_by_itself(tmp_path, monkeypatch, capsys):
    (block,) = re.findall(r"```python\n(.*?)```", RECIPES["5. An experiment"], re.S)
    assert len(block.splitlines()) <= 200
    assert "experiments" not in "".join(re.findall(r"^(?:from|import) .*", block, re.M))
    (tmp_path / "local_epochs.py").write_text(block)
    monkeypatch.syspath_prepend(str(tmp_path))
    import local_epochs

    monkeypatch.setitem(sys.modules, "local_epochs", local_epochs)
    workdir = tmp_path / "run"
    local_epochs.COMPARISON.main(
        ["", f"--workdir={workdir}", "--quick", "--noprogress", "--num_clients=20"]
    )
    runs = read_runs(workdir)
    assert [row["local_epochs"] for row in runs.values()] == [1, 4]
    assert runs["epochs-4"]["rounds_to_target"] < runs["epochs-1"]["rounds_to_target"]
    assert "holds: variants that failed" in capsys.readouterr().out
