"""Recorded commands: every flag file parses, builds, and stands in a README."""

import importlib
import re
from pathlib import Path

import pytest

from fedjax_comp.experiment.expressions import check_expressions
from fedjax_comp.experiment.rates import define_rates
from fedjax_comp.experiment.seeds import define_seeds

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
PRESETS = sorted(EXPERIMENTS.glob("*/presets/*.flags"))


def flags_of(preset):
    """The flags, not yet parsed, of the command that its first line names."""
    first, _, _ = preset.read_text(encoding="utf-8").partition("\n")
    named = re.fullmatch(r"# python -m (experiments\.[a-z_.]+)", first)
    assert named, first
    command = module = importlib.import_module(named[1])
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"{named[1]}.flags")
        command = importlib.import_module(f"{named[1]}.run")
    values = module.define()
    if hasattr(command, "COMPARISON"):
        define_seeds(values)
        define_rates(values, command.COMPARISON.tuning)
    return values


@pytest.mark.parametrize(
    "preset", PRESETS, ids=[f"{path.parts[-3]}-{path.stem}" for path in PRESETS]
)
def test_a_preset_parses_and_its_expressions_build(preset):
    values = flags_of(preset)
    assert values(["", f"--flagfile={preset}"]) == [""]
    check_expressions(values)
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
