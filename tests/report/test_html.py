"""The page is well formed, fetches nothing, and treats every name as text."""

import base64
import math
from html.parser import HTMLParser

import pytest

from fedjax_comp.report.html import Claim, Figure, Table, write_report
from fedjax_comp.report.plots import Run, accuracy_against_rounds

_HOSTILE = "<script>alert('1')</script>\"'&{{ 7*7 }}</title><img src=x onerror=y>"
_VOID = {"meta", "img"}


class _Page(HTMLParser):
    """Collects tags, attributes and texts; raises when a tag is closed out of order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data.strip()))

    def within(self, tag: str) -> list[str]:
        return [text for parent, text in self.texts if parent == tag]


def _page(path, **changes) -> _Page:
    content = {"title": "t", "summary": {}, "settings": {}} | changes
    return _Page(write_report(path, **content).read_text(encoding="utf-8"))


@pytest.fixture
def figure(tmp_path):
    rows = [{"round": 1, "test_accuracy": 0.5}, {"round": 2, "test_accuracy": 0.7}]
    return accuracy_against_rounds([Run("dense", rows)], tmp_path / "figure.png")


def test_figures_are_the_files_and_nothing_is_fetched(tmp_path, figure) -> None:
    page = _page(tmp_path / "r.html", figures=[Figure("accuracy", figure)] * 2)
    images = [attrs for tag, attrs in page.tags if tag == "img"]
    assert len(images) == 2
    for image in images:
        kind, _, content = image["src"].partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(content, validate=True) == figure.read_bytes()
        assert image["alt"] == "accuracy"
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert not [a for _, attrs in page.tags for a in attrs if a in ("href", "srcset")]
    (style,) = page.within("style")
    assert "url(" not in style
    assert "@import" not in style


def test_every_name_is_text(tmp_path, figure) -> None:
    page = _page(
        tmp_path / "r.html",
        title=_HOSTILE,
        summary={_HOSTILE: _HOSTILE},
        settings={_HOSTILE: _HOSTILE},
        tables=[Table(_HOSTILE, [_HOSTILE], [[_HOSTILE]], note=_HOSTILE)],
        figures=[Figure(_HOSTILE, figure)],
        claims=[Claim(_HOSTILE, _HOSTILE, _HOSTILE, True)],
    )
    assert [attrs["alt"] for tag, attrs in page.tags if tag == "img"] == [_HOSTILE]
    assert "script" not in {tag for tag, _ in page.tags}
    for tag in ("title", "h1", "h2", "dt", "dd", "th", "td", "figcaption", "p"):
        assert _HOSTILE in page.within(tag), tag
    assert not [a for _, attrs in page.tags for a in attrs if a.startswith("on")]


def test_numbers_are_in_their_units_with_the_exact_one_behind(tmp_path) -> None:
    page = _page(
        tmp_path / "r.html",
        summary={"uplink_bytes": 53_210, "rounds_to_target": None},
        tables=[
            Table(
                "Runs",
                ["name", "test_accuracy", "downlink_bytes"],
                [["dense", 0.97314, 2**53 + 1], ["sparse", math.nan, None]],
            )
        ],
    )
    assert page.within("dd") == ["53.2 kB", "–"]
    assert page.within("td") == ["dense", "97.31 %", "9.01 PB", "sparse", "nan", "–"]
    exact = [attrs.get("title") for tag, attrs in page.tags if tag == "td"]
    assert exact == [None, "0.97314", str(2**53 + 1), None, "nan", None]
    classes = [attrs["class"] for tag, attrs in page.tags if tag == "td"]
    assert classes == ["text", "number", "number"] * 2


def test_claims_say_whether_they_hold(tmp_path) -> None:
    claims = [
        Claim("uplink_ratio", 50, 57.0, True, bound="at_least"),
        Claim("test_accuracy", 0.99, 0.5, False),
    ]
    page = _page(tmp_path / "r.html", claims=claims)
    assert page.within("td") == [
        *("uplink ratio", "at least 50×", "57×", "✓ yes"),
        *("test accuracy", "99.00 %", "50.00 %", "✗ no"),
    ]


def test_undecodable_names_are_shown_not_fatal(tmp_path) -> None:
    path = write_report(
        tmp_path / "a" / "r.html", title="\udcff", summary={}, settings={}
    )
    assert "\\udcff" in path.read_text(encoding="utf-8")


def test_bad_tables_and_figures_are_named(tmp_path) -> None:
    with pytest.raises(ValueError, match="'Runs' with 1 values to have 2"):
        _page(tmp_path / "r.html", tables=[Table("Runs", ["a", "b"], [[1]])])
    (tmp_path / "f.png").write_text("<svg onload=x>")
    with pytest.raises(ValueError, match="to be a PNG"):
        _page(tmp_path / "r.html", figures=[Figure("f", tmp_path / "f.png")])
    assert not (tmp_path / "r.html").exists()
