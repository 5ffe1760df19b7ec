"""Recorded commands: every flag file parses, builds, and stands in a README."""

import contextlib
import importlib
import re
from pathlib import Path

import pytest

from fedjax_comp.data import DataUnavailable
from fedjax_comp.experiment.expressions import check_expressions
from fedjax_comp.experiment.rates import says_rate

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
PRESETS = sorted(EXPERIMENTS.glob("*/presets/*.flags"))


def command_of(preset):
    """Flags, not yet parsed, of the command in its first line, and its `Comparison`."""
    first, _, _ = preset.read_text(encoding="utf-8").partition("\n")
    named = re.fullmatch(r"# python -m (experiments\.[a-z_.]+)", first)
    assert named, first
    command = module = importlib.import_module(named[1])
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"{named[1]}.flags")
        command = importlib.import_module(f"{named[1]}.run")
    comparison = getattr(command, "COMPARISON", None)
    values = module.define() if comparison is None else comparison.all_flags()
    return values, comparison


@pytest.mark.thorough
@pytest.mark.parametrize(
    "preset", PRESETS, ids=[f"{path.parts[-3]}-{path.stem}" for path in PRESETS]
)
def test_a_preset_parses_and_its_expressions_build(preset):
    values, comparison = command_of(preset)
    assert values(["", f"--flagfile={preset}"]) == [""]
    check_expressions(values)
    if comparison is not None and not says_rate(preset.read_text(encoding="utf-8")):
        with contextlib.suppress(DataUnavailable):  # of which some look at the labels
            assert comparison.variants(values)
    lines = preset.read_text(encoding="utf-8").splitlines()
    given = {
        re.split("[ =]", line.strip().removeprefix("--"))[0]
        for line in lines
        if line.strip().startswith("--")
    }
    assert given
    for name in given:
        assert values[name.removeprefix("no") if name not in values else name].present
    readme = (preset.parents[1] / "README.md").read_text(encoding="utf-8")
    assert preset.name in readme


def test_there_are_presets():
    assert PRESETS
