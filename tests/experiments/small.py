"""What tests of experiments made of measurements share."""

import re
from pathlib import Path
from unittest import mock

import pytest

from fedjax_comp.audit.entry import EVALUATION, RESULT, parse_entry
from fedjax_comp.audit.log import read_log

ROOT = Path(__file__).resolve().parents[2]


def mistake(main, capsys, flags):
    """The one line with which a command refuses its flags, after exit code 2."""
    with pytest.raises(SystemExit) as stop:
        main(["", *flags])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def without_last_row(directory):
    """A run as it is when killed while its last row was written; what was whole."""
    (directory / "summary.json").unlink()
    path = directory / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    whole = "".join(lines[:-1])
    path.write_text(whole + lines[-1][:20])
    return whole


def logged_messages(folder):
    """The log's entries of messages: neither its beginning nor evaluations and ends."""
    entries = map(parse_entry, read_log(folder).lines[1:])
    return [one for one in entries if one.kind not in (EVALUATION, RESULT)]


def read_runs(workdir):
    """Every experiment's figures, by the script of their README."""
    text = (ROOT / "experiments" / "README.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```python\n(import json, sys\n.*?)```", text, re.DOTALL)
    assert len(script.splitlines()) <= 10
    given: dict = {}
    with mock.patch("sys.argv", ["read", str(workdir)]):
        exec(script, given)
    summary = given["summary"]
    assert {"experiment", "format", "runs", "claims"} <= summary.keys()
    assert all("name" in row for row in summary["runs"])
    return given["figures"]
