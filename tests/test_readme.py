"""The README's example runs as it stands, and does what it says."""

import re
from pathlib import Path

import jax

ROOT = Path(__file__).parents[1]


def test_the_notebook_example_runs(capsys):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["accuracy"] > 0.85
    num_parameters = sum(x.size for x in jax.tree.leaves(names["params"]))
    dense = 100 * 10 * 4 * num_parameters
    assert 0 < names["ledger"].uplink_bytes < dense / 20
    assert "bytes up" in capsys.readouterr().out


def test_every_experiment_is_listed():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for readme in sorted((ROOT / "experiments").glob("*/README.md")):
        assert readme.relative_to(ROOT).as_posix() in text
