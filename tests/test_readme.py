"""The README's example runs as it stands, and does what it says."""

import re
from pathlib import Path

import jax

from tests.conformance import compressor_checks as checks
from tests.conformance.compressor_bounds import contractive

ROOT = Path(__file__).parents[1]


def run_block(number):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    names = {}
    exec(compile(blocks[number], "README.md", "exec"), names)
    return names


def test_the_compressor_of_the_worked_example_passes_the_battery():
    entry = contractive("ternary", run_block(1)["ternary"], lambda n: 1.0)
    checks.check_leaves(entry)
    checks.check_wire(entry)
    checks.check_errors(entry)
    checks.check_broken(entry)


def test_the_notebook_example_runs(capsys):
    names = run_block(0)
    assert names["accuracy"] > 0.85
    num_parameters = sum(x.size for x in jax.tree.leaves(names["params"]))
    dense = 100 * 10 * 4 * num_parameters
    assert 0 < names["ledger"].uplink_bytes < dense / 20
    assert "bytes up" in capsys.readouterr().out


def test_every_experiment_is_listed():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for readme in sorted((ROOT / "experiments").glob("*/README.md")):
        assert readme.relative_to(ROOT).as_posix() in text
