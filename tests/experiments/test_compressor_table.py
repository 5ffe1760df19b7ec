"""Every factory of compressors has its row in the table of `compress/README.md`."""

import math
import re
from pathlib import Path
from typing import get_type_hints

import jax
import pytest

from experiments.benchmark.compressors import (
    ROOMS,
    ROWS,
    Result,
    kind,
    make_source,
    to_line,
    to_text,
)
from experiments.rate_distortion.measure import measure
from fedjax_comp import compress
from fedjax_comp.base import Compressor
from fedjax_comp.experiment.expressions import NAMES, build

README = Path(compress.__file__).with_name("README.md")
FACTORIES = {
    name: made
    for name, made in NAMES["compressor"].items()
    if get_type_hints(made).get("return") is Compressor
}


def test_every_factory_has_a_row_in_the_room_where_it_lives():
    rooms = {row.factory: room for room, rows in ROOMS.items() for row in rows}
    assert len(rooms) == len(ROWS)
    assert set(rooms) == set(FACTORIES)
    for name, room in rooms.items():
        place = FACTORIES[name].__module__.split(".")[2:]
        assert room == (place[0] if len(place) > 1 else "sketch, entropy code"), name


def test_every_row_builds_what_it_is_about():
    for row in ROWS:
        assert re.search(rf"\b{row.factory}\(", row.expression), row
        assert isinstance(build("compressor", row.expression), Compressor)


def test_the_readme_has_every_row_with_its_numbers():
    text = README.read_text(encoding="utf-8")
    lines = text.splitlines()
    for row in ROWS:
        start = "| " + " | ".join(to_text(row)) + " | "
        found = [line for line in lines if line.startswith(start)]
        assert len(found) == 1, (
            f"{row.factory} has {len(found)} lines in {README.name} that begin with "
            f"{start!r}: paste what python -m experiments.benchmark.compressors "
            f"--markdown --only={row.factory} prints"
        )
        (line,) = found
        cells = line.removeprefix(start).strip("| ").split(" | ")
        assert len(cells) == 5
        assert all(cell.strip() for cell in cells)
    for room in ROOMS:
        assert f"### {room}\n" in text


@pytest.mark.parametrize(
    ("row", "vnmse", "bits", "mean"),
    [
        ("scaled_sign", 1 - 2 / math.pi, 1.0, "biased"),
        ("random_k", 99, 0.32, "unbiased"),
    ],
)
def test_a_row_is_what_theory_says(row, vnmse, bits, mean):
    (row,) = [r for r in ROWS if r.factory == row]
    compressor = build("compressor", row.expression)
    source = make_source("gaussian", 128)
    measured = measure(compressor, source, jax.random.key(0), num_trials=10)
    assert measured.vnmse == pytest.approx(vnmse, rel=0.05)
    assert measured.rate_bits == pytest.approx(bits, rel=0.01)
    assert kind(measured) == mean
    line = to_line(row, Result(measured, measured), measured.encode_seconds)
    assert line.count(" | ") == 7
    assert line.startswith(f"| **`{row.factory}`** `{row.expression}` | {row.choose}")
