"""Names in the margin: no overlap, order kept, nothing lost that fits."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedjax_comp.report.margin import spread, wrapped

_BOXES = st.lists(
    st.tuples(st.floats(0, 1), st.floats(0.01, 0.2)), min_size=1, max_size=9
)


@given(_BOXES)
def test_boxes_do_not_overlap_and_keep_their_order(boxes) -> None:
    targets, heights = map(list, zip(*boxes, strict=True))
    centres = np.array(spread(targets, heights))
    order = np.argsort(targets, kind="stable")
    centres, sizes = centres[order], np.array(heights)[order]
    gaps = np.diff(centres) - (sizes[1:] + sizes[:-1]) / 2
    assert np.all(gaps >= -1e-9)
    assert centres[-1] + sizes[-1] / 2 <= 1 + 1e-9


@given(st.lists(st.integers(0, 4), min_size=1, max_size=5, unique=True))
def test_boxes_with_room_stay_where_they_are(slots: list[int]) -> None:
    targets = [0.1 + 0.2 * slot for slot in slots]
    np.testing.assert_allclose(spread(targets, [0.2] * len(slots)), targets, atol=1e-12)


@given(st.text(alphabet="ab(,) ", max_size=60))
def test_wrapping_keeps_every_character_but_white_space(name: str) -> None:
    lines = wrapped(name, width=12, max_lines=60)
    if all(len(piece) < 24 for piece in name.replace("(", " ").split()):
        assert "".join("".join(lines).split()) == "".join(name.split())
    assert all(len(line) <= 24 for line in lines)


def test_what_does_not_fit_is_marked() -> None:
    lines = wrapped("a, b, c, d, e, f", width=2, max_lines=3)
    assert lines == ["a,", "b,", "c, …"]
