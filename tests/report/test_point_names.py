"""Names beside points: no overlap, near, and within the figure."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedjax_comp.report import Run, line_figure
from fedjax_comp.report.point_names import place_names

SIZE = (60.0, 14.0)
_POINTS = st.lists(
    st.tuples(st.floats(0, 800), st.floats(0, 500)), min_size=1, max_size=6
)


@given(_POINTS)
def test_names_of_few_points_neither_overlap_nor_leave_the_figure(points):
    corners = place_names(points, [SIZE] * len(points), within=(0, 0, 800, 500))
    for x, y in corners:
        assert 0 <= x <= 740
        assert 0 <= y <= 486
    for a, b in itertools.combinations(corners, 2):
        assert abs(a[0] - b[0]) >= SIZE[0] - 1e-6 or abs(a[1] - b[1]) >= SIZE[1] - 1e-6
    for (x, y), (a, b) in itertools.product(points, corners):
        assert not (a < x - 1 < x + 1 < a + SIZE[0] and b < y < b + SIZE[1])


def test_a_name_stands_right_of_its_point_or_left_at_the_edge():
    points = [(100.0, 100.0), (780.0, 100.0)]
    corners = place_names(points, [SIZE] * 2, within=(0, 0, 800, 500))
    assert corners == [(108, 93), (712, 93)]


@pytest.mark.parametrize("log_x", [False, True])
def test_a_figure_has_its_names_at_the_points(tmp_path, log_x):
    runs = [Run(f"p{i}", [{"x": 0.5 + i % 2, "y": i / 9}]) for i in range(9)]
    settings = {"x": "x", "y": "y", "xlabel": "x", "ylabel": "y", "log_x": log_x}
    beside = line_figure(runs, path=tmp_path / "a.svg", **settings)
    at = line_figure(runs, path=tmp_path / "b.svg", names_at_points=True, **settings)
    width = [
        float(p.read_text().split('width="')[1].split("pt")[0]) for p in (beside, at)
    ]
    assert width[1] < width[0]
