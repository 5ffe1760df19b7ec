"""The READMEs' examples run as they stand, and do what they say."""

import re
import tomllib
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from fedjax_comp import algorithms
from fedjax_comp.data.sources import NAMES
from fedjax_comp.experiment.algorithms import OFFERED
from fedjax_comp.problem import Schedule
from fedjax_comp.run_directory import open_run
from fedjax_comp.wire.accounting import message_bits
from tests.test_hooks import problem

ROOT = Path(__file__).parents[1]


def run_block(words, readme="README.md"):
    """The names that a README's block of Python with these words defines."""
    text = (ROOT / readme).read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    (block,) = [block for block in blocks if words in block]
    names = {}
    exec(compile(block, readme, "exec"), names)
    return names


@pytest.mark.thorough
def test_the_notebook_example_runs(capsys):
    names = run_block("run_rounds = jax.jit")
    assert names["accuracy"] > 0.85
    num_parameters = sum(x.size for x in jax.tree.leaves(names["params"]))
    dense = 100 * 10 * 4 * num_parameters
    assert 0 < names["ledger"].uplink_bytes < dense / 20
    assert "bytes up" in capsys.readouterr().out


@pytest.mark.thorough
def test_a_compressor_is_an_optax_transformation():
    optimizer = run_block("compressed = as_optax")["optimizer"]
    params = jnp.zeros(200)
    with jax.numpy_dtype_promotion("standard"):  # as Adam has it
        state = optimizer.init(params)
        updates, state = optimizer.update(jnp.arange(200.0), state, params)
    assert updates.shape == (200,)
    assert message_bits(state[0].bits) < 200


def test_every_experiment_is_listed():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for readme in sorted((ROOT / "experiments").glob("*/README.md")):
        assert readme.relative_to(ROOT).as_posix() in text


def test_every_algorithm_has_its_use():
    path = ROOT / "fedjax_comp" / "algorithms" / "README.md"
    text = path.read_text(encoding="utf-8")
    for name in {*algorithms.__all__, *OFFERED}:
        assert f"`{name}" in text, name


def test_every_data_set_and_every_extra_is_listed():
    text = (ROOT / "experiments" / "README.md").read_text(encoding="utf-8")
    for name in NAMES:
        assert f"`{name}`" in text, name
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    table = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in project["project"]["optional-dependencies"]:
        assert f"`{name}`" in table or name == "all", name


def test_every_module_has_its_place_in_the_architecture():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    package = ROOT / "fedjax_comp"
    for path in [*package.glob("*.py"), *package.glob("algorithms/*.py")]:
        if path.name.startswith("__"):
            continue
        name = path.name if path.parent == package else path.stem
        assert f"`{name}`" in text, name
    for path in package.glob("*/__init__.py"):
        assert f"`{path.parent.name}/`" in text, path.parent.name


def test_the_tracker_of_the_readme_hears_every_evaluation(tmp_path):
    tracked, heard = run_block("forwarded(log)", "fedjax_comp/README.md")["tracked"], {}
    tracked(
        open_run(tmp_path, "tracker", {}),
        problem(),
        Schedule(2, eval_every=1),
        jax.random.key(0),
        lambda numbers, step: heard.update({step: numbers}),
    )
    assert list(heard) == [0, 1, 2]
    assert heard[2]["uplink_bytes"] > heard[1]["uplink_bytes"] > 0
