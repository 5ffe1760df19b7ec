"""Places are where they were computed by hand, and every curve can be seen."""

import itertools
import re

import pytest

from fedjax_comp.report.line_plot import (
    Axis,
    Curve,
    Layout,
    coincident,
    line_plot,
    log_ticks,
    ticks,
)

# From x = 42 to 138 and from y = 108 up to 12, two away from the frame.
LAYOUT = Layout(200, 100, left=40, right=60, characters=8, font=10.0, ticks=3)


def draw(*curves, **more):
    settings = {"title": "t", "xlabel": "rounds", "write_x": str, "write_y": str}
    return line_plot(curves, layout=LAYOUT, **settings, **more)


def points(svg, tag):
    return [
        [tuple(map(float, pair.split(","))) for pair in found.split(" ")]
        for found in re.findall(rf'<{tag} [^>]*points="([^"]*)"', svg)
    ]


def test_a_linear_curve_and_its_band():
    # y runs from -0.5, the lowest of the band, to 1.5: 48 units are 1.
    curve = Curve(
        "a", [(0, 0), (5, 0.5), (10, 1)], [(-0.5, 0.5), (0.5, 0.5), (1, 1.5)], 3
    )
    svg, _ = draw(curve)
    assert points(svg, "polyline") == [[(42, 84), (90, 60), (138, 36)]]
    assert points(svg, "polygon") == [
        [(42, 108), (90, 60), (138, 36), (138, 12), (90, 60), (42, 60)]
    ]
    assert svg.count('c3"') == 5  # band, line, end, lead and name


def test_a_logarithmic_axis():
    svg, _ = draw(Curve("a", [(1, 0), (10, 1), (100, 2)], [], 0), log_x=True)
    assert points(svg, "polyline") == [[(42, 108), (90, 60), (138, 12)]]
    assert "polygon" not in svg


def test_one_point_and_constant_curves_have_a_place():
    svg, _ = draw(Curve("a", [(5, 0.25)], [], 0))
    assert points(svg, "polyline") == [[(90, 60)]]
    assert Axis(2, 8, 0, 1, log=True).place(4) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="point"):
        draw(Curve("a", [], [], 0))


def test_ticks_are_round_and_within():
    assert ticks(0.1, 0.93, 5) == [0.25, 0.5, 0.75]
    assert ticks(0, 40, 5) == [0, 10, 20, 30, 40]
    assert log_ticks(1e3, 5e9, 4) == [1e3, 1e5, 1e7, 1e9]
    assert log_ticks(3, 4, 4) == [3]


def test_curves_on_each_other_are_drawn_in_turn():
    same = [(0, 0), (10, 1)]
    curves = [
        Curve("a", same, [], 0),
        Curve("b", [(0, 1), (10, 0)], [], 1),
        Curve("c", same, [], 2),
        Curve("shorter", same[:1], [], 3),
    ]
    svg, sets = draw(*curves)
    assert sets == [[0, 2]]
    dashes = re.findall(r'c(\d)"[^>]*dasharray="(\S+) (\S+)" \S*offset="(\S+)"', svg)
    assert dashes == [("0", "7", "7", "0"), ("2", "7", "7", "-7")]
    assert coincident([[(0, 0)], [(0, 0.7)], [(0, 1.4)]]) == [[0, 1]]


def test_names_stand_apart_in_lines_that_fit_and_are_text():
    curves = [
        Curve(name, [(0, 0), (10, 1)], [], i)
        for i, name in enumerate(["x" * 30, "<b>&", "chain(top_k(0.1))"])
    ]
    svg, _ = draw(*curves)
    assert "<b>" not in svg
    assert "&lt;b&gt;&amp;" in svg
    spans = re.findall(r'<tspan x="[^"]*" y="([^"]*)">([^<]*)<', svg)
    assert max(len(text) for _, text in spans if "&" not in text) == 8
    heights = sorted(float(height) for height, _ in spans)
    assert all(b - a >= 10 for a, b in itertools.pairwise(heights))


@pytest.mark.parametrize("value", [0.0, 1.0, -1e15, 1e17, 3e20, -1e300])
def test_a_curve_of_one_value_lies_in_the_middle_whatever_it_is(value):
    svg, _ = draw(Curve("a", [(0, value), (1, value)], [], 0))
    assert points(svg, "polyline") == [[(42, 60), (138, 60)]]
    assert 2 <= svg.count('text-anchor="end"') <= 6
