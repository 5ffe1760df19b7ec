"""Every preset is a command that its experiment takes."""

import importlib

import pytest

from fedjax_comp.experiment.expressions import check_expressions
from tests.experiments.small import ROOT

PRESETS = sorted(ROOT.glob("experiments/*/presets/*.flags"))
COMMAND = "# python -m "
"""What a preset begins with, before the module it is for."""


def name_of(path):
    return path.relative_to(ROOT / "experiments").as_posix()


def flags_of(module):
    """The flags of a command, not yet parsed."""
    found = importlib.import_module(module)
    if not hasattr(found, "define"):  # a package, whose flags have a file
        found = importlib.import_module(f"{module}.flags")
    return found.define()


@pytest.mark.parametrize("path", PRESETS, ids=name_of)
def test_a_preset_parses_and_what_it_names_is_built(path):
    first, *_ = path.read_text(encoding="utf-8").splitlines()
    assert first.startswith(COMMAND)
    module = first.removeprefix(COMMAND).strip()
    assert module.split(".")[1] == path.parts[-3]
    values = flags_of(module)
    assert values([module, f"--flagfile={path}"]) == [module]
    check_expressions(values)


@pytest.mark.parametrize("path", PRESETS, ids=name_of)
def test_a_preset_is_named_by_its_readme(path):
    readme = (path.parents[1] / "README.md").read_text(encoding="utf-8")
    assert f"{path.parts[-3]}/presets" in readme
    assert path.name in readme
