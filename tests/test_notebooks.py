"""Every notebook runs from its first cell to its last, and keeps what it showed."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conformance.compressor_bounds import contractive
from tests.conformance.compressor_checks import check_broken, check_leaves, check_wire
from tests.conformance.compressor_magnitudes import check_magnitudes

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))

PLACE = re.compile(r"(?<![\w.])/(?:home|root|tmp|usr|var|work|mnt|Users)/|[A-Z]:\\\\")
"""The beginning of a path on somebody's machine."""


LONG = ("a_controller_on_a_3g_trace", "a_language_model")
RUN = [
    pytest.param(path, marks=[pytest.mark.slow] * (path.stem in LONG), id=path.stem)
    for path in NOTEBOOKS
]


@pytest.mark.thorough
@pytest.mark.parametrize("path", RUN)
def test_runs(path, monkeypatch):
    # Kernels inherit it: they compile for longer than they compute.
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    book = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parents[1])}}
    NotebookClient(book, timeout=300, resources=resources).execute()


def test_the_compressor_passes_the_battery():
    place = Path(__file__).parents[1] / "notebooks" / "your_own_compressor.ipynb"
    cells = [c.source for c in nbformat.read(place, as_version=4).cells]
    names: dict = {}
    for words in ("from fedjax_comp.wire.fields import", "def ternary"):
        (cell,) = [cell for cell in cells if words in cell]
        exec(compile(cell, place.name, "exec"), names)
    entry = contractive("ternary", names["ternary"], lambda n: 1.0)
    for check in (check_leaves, check_wire, check_broken, check_magnitudes):
        check(entry)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_kept_whole_and_name_no_machine(path):
    book = nbformat.read(path, as_version=4)
    assert book.cells[0].source.startswith("# ")
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    assert "find_spec" in cells[0].source
    # As after one run from top to bottom, and with a figure.
    assert [c.execution_count for c in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert {o.output_type for o in outputs} <= {"stream", "execute_result"}
    assert all(o.get("name") != "stderr" for o in outputs)
    assert any("image/png" in o.get("data", {}) for o in outputs)
    said = "".join(
        str(o.get("text", "")) + str(o.get("data", {}).get("text/plain", ""))
        for o in outputs
    )
    assert not PLACE.search(said), PLACE.search(said)
    assert not PLACE.search("".join(cell.source for cell in book.cells))
    assert path.stat().st_size < 300_000
