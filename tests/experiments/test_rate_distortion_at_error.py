"""Bits at equal error, from the rows of a run."""

import json
import sys

import pytest

from experiments.rate_distortion import at_error

ROWS = [
    {"source": "a", "family": "f", "vnmse": 0.4, "rate_bits": 1.0},
    {"source": "a", "family": "f", "vnmse": 0.1, "rate_bits": 2.0},
    {"source": "a", "family": "f, more", "vnmse": 0.1, "rate_bits": 1.5},
    {"source": "a", "family": "f, more", "vnmse": 0.8, "rate_bits": 0.5},
    {"source": "a", "family": "failed", "vnmse": None, "rate_bits": None},
]


def test_every_family_has_a_line_and_nothing_is_extrapolated():
    lines = at_error.table(ROWS, [0.2, 0.05])
    assert lines[0] == "| source | family | 0.2 | 0.05 |"
    assert lines[2:] == ["| `a` | f | 1.5000 |  |", "| `a` | f, more | 1.1667 |  |"]


def test_families_taken_together_have_the_least():
    assert at_error.table(ROWS, [0.2], ["f"])[2:] == ["| `a` | f | 1.1667 |"]


def test_the_command(tmp_path, monkeypatch, capsys):
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    monkeypatch.setattr(sys, "argv", ["at_error", str(tmp_path), "--error=0.2"])
    at_error.main()
    assert "| `a` | f | 1.5000 |" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["at_error", str(tmp_path / "none")])
    with pytest.raises(SystemExit, match="2"):
        at_error.main()
    assert "no run of the experiment" in capsys.readouterr().err
