"""The recipes of CONTRIBUTING.md are what the project does, line by line."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import optax
import pytest

from fedjax_comp.compress import error_feedback, identity, top_k
from tests.algorithms.test_fed_nova import expected, moved
from tests.conformance import algorithm_checks
from tests.conformance import compressor_checks as checks
from tests.conformance.compressor_bounds import contractive
from tests.conformance.compressor_keys import check_keys
from tests.conformance.compressor_magnitudes import check_magnitudes
from tests.conformance.compressor_statistics import check_errors
from tests.experiments.small import read_runs
from tests.problems import softmax_task

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
RECIPES = dict(re.findall(r"^## (\d\. [^\n]+)\n(.*?)(?=^## |\Z)", TEXT, re.M | re.S))


WHOLE = {
    name: block
    for name, recipe in RECIPES.items()
    for block in re.findall(r"```python\n(.*?)```", recipe, re.S)
}
"""The files that recipes show from their first line to their last."""


def run_whole(name):
    """The names that a recipe's file defines."""
    names = {}
    exec(compile(WHOLE[name], "CONTRIBUTING.md", "exec"), names)
    return names


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


def test_the_compressor_passes_the_battery():
    ternary = run_whole("1. A compressor")["ternary"]
    entry = contractive("ternary", ternary, lambda n: 1.0)
    checks.check_leaves(entry)
    checks.check_wire(entry)
    checks.check_broken(entry)
    check_errors(entry)
    check_magnitudes(entry)
    check_keys(entry)


@pytest.mark.thorough
def test_the_algorithm_passes_the_battery():
    fed_nova = run_whole("2. An algorithm")["fed_nova"]
    uplink = error_feedback(top_k(0.5))

    def make(execution, keep_messages):
        return fed_nova(
            softmax_task(),
            client_optimizer=optax.sgd(0.3),
            uplink=uplink,
            execution=execution,
            keep_messages=keep_messages,
        )

    links = {"uplink": uplink, "downlink": identity()}
    entry = algorithm_checks.Entry(make, links).under("chunked(2)")
    for check in algorithm_checks.CHECKS.values():
        check(entry)


def test_the_algorithm_is_fed_nova():
    got = moved(run_whole("2. An algorithm")["fed_nova"])
    np.testing.assert_allclose(got, expected(), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", ["1. A compressor", "2. An algorithm"])
def test_what_is_whole_passes_the_linter(name):
    place = "fedjax_comp/algorithms/example.py"
    command = ["-m", "ruff", "check", f"--stdin-filename={place}", "-"]
    for arguments in (command, [*command[:2], "format", "--check", *command[3:]]):
        done = subprocess.run(
            [sys.executable, *arguments],
            input=WHOLE[name],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.thorough
def test_what_is_whole_has_sound_types(tmp_path):
    files = []
    for name in ("1. A compressor", "2. An algorithm"):
        files.append(tmp_path / f"recipe_{name[0]}.py")
        files[-1].write_text(WHOLE[name], encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *map(str, files)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.thorough
def test_the_experiment_runs_by_itself(tmp_path, monkeypatch, capsys):
    block = WHOLE["5. An experiment"]
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
