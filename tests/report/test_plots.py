"""Figures are valid pictures of what the rows say, whatever the rows hold."""

import math
import warnings

import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from fedjax_comp.report.plots import (
    Run,
    accuracy_against_bytes,
    accuracy_against_rounds,
    line_figure,
)

_BLUE, _VERMILION = to_rgb("#0072B2"), to_rgb("#D55E00")


def _rows(num_rounds: int, bytes_per_round: int = 1000) -> list[dict[str, float]]:
    return [
        {
            "round": r,
            "test_accuracy": r / (r + 1),
            "uplink_bytes": r * bytes_per_round,
            "downlink_bytes": 3 * r * bytes_per_round,
        }
        for r in range(num_rounds + 1)
    ]


def _pixels_of(path, colour) -> np.ndarray:
    """Rows and columns, `[M, 2]`, of the pixels of a colour left of the names."""
    picture = matplotlib.image.imread(path)[..., :3]
    near = np.all(np.abs(picture - np.asarray(colour)) < 0.02, axis=-1)
    return np.argwhere(near[:, :900])


def test_each_run_is_drawn_in_its_colour_and_rises(tmp_path) -> None:
    path = accuracy_against_rounds(
        [Run("dense", _rows(9)), Run("sparse", [])], tmp_path / "new" / "a.png"
    )
    pixels = _pixels_of(path, _BLUE)
    left, right = pixels[pixels[:, 1].argmin()], pixels[pixels[:, 1].argmax()]
    assert left[0] > right[0]  # image rows count downwards
    assert len(_pixels_of(path, _VERMILION)) == 0


def test_fewer_bytes_stand_further_left(tmp_path) -> None:
    runs = [Run("dense", _rows(9, 10**6)), Run("sparse", _rows(9, 10**4))]
    path = accuracy_against_bytes(runs, tmp_path / "b.png")
    assert (
        _pixels_of(path, _VERMILION)[:, 1].max() < _pixels_of(path, _BLUE)[:, 1].min()
    )


def test_columns_are_added(tmp_path) -> None:
    both = ("uplink_bytes", "downlink_bytes")
    summed = [{**row, "uplink_bytes": 4 * row["uplink_bytes"]} for row in _rows(5)]
    halves = [{**row, "downlink_bytes": 0} for row in summed]
    one = accuracy_against_bytes([Run("r", _rows(5))], tmp_path / "1.png", columns=both)
    two = accuracy_against_bytes([Run("r", halves)], tmp_path / "2.png", columns=both)
    assert one.read_bytes() == two.read_bytes()


def test_a_decay_is_straight_on_a_logarithmic_axis_and_what_it_cannot_hold_is_left(
    tmp_path,
) -> None:
    rows = [{"bits": b, "error": 4.0**-b} for b in range(9)]
    lost = [*rows, {"bits": 9, "error": 0.0}, {"bits": 10, "error": -1.0}]
    axes = {"x": "bits", "y": "error", "xlabel": "b", "ylabel": "e", "log_y": True}
    one = line_figure([Run("r", rows)], path=tmp_path / "1.png", **axes)
    two = line_figure([Run("r", lost)], path=tmp_path / "2.png", **axes)
    assert one.read_bytes() == two.read_bytes()
    pixels = _pixels_of(one, _BLUE).astype(float)
    inside = pixels[pixels[:, 1] < pixels[:, 1].max() - 20]
    assert abs(np.corrcoef(inside[:, 0], inside[:, 1])[0, 1]) > 0.99


def test_a_reference_takes_no_colour_of_the_runs(tmp_path) -> None:
    runs = [Run("r", _rows(5))]
    names = {"x": "round", "y": "test_accuracy", "xlabel": "r", "ylabel": "a"}
    path = line_figure(
        runs, path=tmp_path / "r.png", reference=Run("limit", _rows(9)), **names
    )
    assert len(_pixels_of(path, _BLUE)) > 100
    assert len(_pixels_of(path, _VERMILION)) == 0
    plain = line_figure(runs, path=tmp_path / "p.png", **names)
    assert path.read_bytes() != plain.read_bytes()
    empty = Run("limit", [])
    same = line_figure(runs, path=tmp_path / "q.png", reference=empty, **names)
    assert same.read_bytes() == plain.read_bytes()


def test_names_stand_behind_a_piece_of_a_curve_as_it_is_drawn(tmp_path) -> None:
    found = []
    line_figure(
        [Run("curve", _rows(5)), Run("point", _rows(0))],
        path=tmp_path / "n.png",
        x="round",
        y="test_accuracy",
        xlabel="r",
        ylabel="a",
        reference=Run("limit", _rows(9)),
        decorate=found.append,
    )
    (axes,) = found
    drawn = [line.get_linestyle() for line in axes.lines]
    # The reference and the runs, then what stands beside their names.
    assert drawn == ["--", "-", "-", "--", "-", "None"]


@pytest.mark.parametrize("log_x", [False, True])
@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{}],
        [{"round": 0, "test_accuracy": 0.1}],
        [{"round": 1, "test_accuracy": math.nan}, {"round": 2, "test_accuracy": None}],
        [{"round": 1, "test_accuracy": math.inf}, {"round": 2, "test_accuracy": 0.5}],
        [{"round": 10**12, "test_accuracy": "high"}],
    ],
)
def test_rows_without_values_still_give_a_figure(tmp_path, rows, log_x) -> None:
    path = line_figure(
        [Run("r", rows)],
        x="round",
        y="test_accuracy",
        xlabel="round",
        ylabel="accuracy",
        path=tmp_path / "c.png",
        log_x=log_x,
    )
    assert matplotlib.image.imread(path).shape[0] > 100


@pytest.mark.parametrize(
    "name",
    ["", " ", "$\\frac{$", "a_b^c", "line\nbreak", "x" * 500, "<b>&amp;", "%s{}"],
)
def test_any_name_can_be_drawn(tmp_path, name: str) -> None:
    path = accuracy_against_rounds([Run(name, _rows(3))], tmp_path / "d.png")
    height, width, _ = matplotlib.image.imread(path).shape
    assert height < 1000
    assert width < 2000


def test_many_runs_are_told_apart(tmp_path) -> None:
    runs = [Run(f"run {i}", _rows(3, 10**i)) for i in range(20)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        accuracy_against_bytes(runs, tmp_path / "e.png")


def test_no_run_and_no_column_are_named(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"series=\[\]"):
        accuracy_against_rounds([], tmp_path / "f.png")
    with pytest.raises(ValueError, match=r"columns=\(\)"):
        accuracy_against_bytes([Run("r", [])], tmp_path / "f.png", columns=())
    assert not (tmp_path / "f.png").exists()


def test_equal_rows_give_equal_files(tmp_path) -> None:
    first = accuracy_against_rounds([Run("r", _rows(4))], tmp_path / "1.png")
    second = accuracy_against_rounds([Run("r", _rows(4))], tmp_path / "2.png")
    assert first.read_bytes() == second.read_bytes()
