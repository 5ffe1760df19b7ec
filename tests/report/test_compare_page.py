"""`python -m fedjax_comp.report`: the page, and mistakes in one line."""

import base64
import hashlib
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from fedjax_comp.report.__main__ import main
from fedjax_comp.report.colours import colours
from fedjax_comp.report.compare_page import MOST_CURVES
from tests.report.found_runs import row, write_run

HOSTILE = "<script>alert('1')</script>\"&{{ 7*7 }}"


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.text, self.tags = text, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def sorts(self, label):
        return [a["data-sort"] for _, a in self.tags if a.get("data-label") == label]


@pytest.fixture
def runs(tmp_path):
    """Two groups of two seeds; the second seed of one has not finished."""
    for name, sent in {"dense": 800, "sign": 16}.items():
        for seed in (0, 1):
            last = {"simulated_seconds": 2.0} if name == "dense" else {}
            write_run(
                tmp_path / "runs" / name / f"seed-{seed}",
                [row(0, 0.1, 0), row(3, 0.8 + seed / 10, sent // 2, sent // 2, **last)],
                seed=seed,
                uplink=f"{name}()",
                finished=(name, seed) != ("sign", 1),
            )
    return tmp_path / "runs"


def report(tmp_path, *arguments):
    out = tmp_path / "page.html"
    main(["", *map(str, arguments), f"--out={out}"])
    return Page(out.read_text(encoding="utf-8"))


def snapshot(folder):
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_ratios_are_first_and_sort_by_their_numbers(tmp_path, runs, capsys):
    before = snapshot(runs)
    page = report(tmp_path, runs, "--target_accuracy=0.75")
    assert snapshot(runs) == before
    assert "4 runs in 2 groups, 1 of them not finished" in capsys.readouterr().out
    heads = [a for tag, a in page.tags if tag == "th"]
    assert [head["data-kind"] for head in heads[:3]] == ["number", "number", "text"]
    assert "50.0× fewer bytes" in page.text
    assert page.sorts("to 75 %") == page.sorts("in all") == ["1.0", "50.0"]
    assert page.sorts("group") == ["dense", "sign"]
    assert page.sorts("bytes") == ["800", "16"]
    assert page.sorts("bytes to 75 %") == ["800", "16"]
    assert "1 of 2 not finished: round 3 of 9" in page.text


def test_curves_are_of_the_columns_that_all_have(tmp_path, runs):
    page = report(tmp_path, runs)
    assert sum(tag == "svg" for tag, _ in page.tags) == 4  # wide and narrow
    assert "against rounds" in page.text
    assert "against simulated time" not in page.text
    assert "“dense” and “sign” lie on each other." in page.text
    page = report(tmp_path, runs / "dense")
    assert "against simulated time" in page.text


def test_another_reference(tmp_path, runs):
    page = report(tmp_path, runs, "--reference=sign")
    assert page.sorts("in all") == ["0.02", "1.0"]
    assert "50.0× more bytes" in page.text


def test_names_are_text_and_nothing_is_fetched(tmp_path):
    write_run(tmp_path / "runs" / "a", [row(1, 0.5, 10)], uplink=HOSTILE)
    write_run(tmp_path / "runs" / "b<i>", [row(1, 0.5, 10)], uplink="b")
    page = report(tmp_path, tmp_path / "runs")
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert "<i>" not in page.text
    assert "49" not in re.findall(r"alert.{40}", page.text)[0]
    assert not any("src" in a or "href" in a for _, a in page.tags)
    # The policy allows the one script alone.
    script = re.findall(r"<script>(.*)</script>", page.text, re.DOTALL)[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in page.text


def test_no_colour_is_used_twice():
    for shade in zip(*colours(MOST_CURVES), strict=True):
        assert len(set(shade)) == MOST_CURVES


def test_more_groups_than_colours(tmp_path):
    for i in range(MOST_CURVES + 2):
        write_run(tmp_path / "runs" / f"{i:02}", [row(1, i / 99, 10)], uplink=f"u{i}")
    page = report(tmp_path, tmp_path / "runs", f"--reference=u{MOST_CURVES + 1}")
    assert "2 groups are in the table alone" in page.text
    assert page.sorts("group")[-1] == f"u{MOST_CURVES + 1}"
    assert page.text.count("<polyline") == 2 * 2 * MOST_CURVES
    swatches = [a["class"] for _, a in page.tags if "swatch" in a.get("class", "")]
    assert len(set(swatches)) == MOST_CURVES


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "no directory"),
        (["{runs}/nothing"], "nothing"),
        (["{runs}", "--unknown=1"], "unknown"),
        (["{runs}", "--target_accuracy=80"], "80"),
        (["{runs}", "--out={runs}"], "is a directory"),
        (["{runs}", "--out={runs}/no/where.html"], "no directory"),
        (["{runs}", "--out={runs}/dense/seed-0/report.html"], "of a run"),
        (["{runs}", "--out=/proc/page.html"], "/proc/page.html"),
        (["{runs}", "--reference=s"], "2 groups"),
        (["{runs}", "--reference=zero"], "no group"),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_2(runs, capsys, arguments, words):
    with pytest.raises(SystemExit) as caught:
        main(["", *(argument.format(runs=runs) for argument in arguments)])
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1


def test_a_damaged_file_is_named_and_the_other_runs_are_there(tmp_path, runs, capsys):
    path = runs / "sign" / "seed-0" / "config.json"
    path.write_text(path.read_text()[:40])
    page = report(tmp_path, runs)
    told = capsys.readouterr()
    assert "3 runs in 2 groups" in told.out
    assert f"left out: {path} cannot be read" in told.err
    assert told.err.count("\n") == 1
    assert f"Left out: {path} cannot be read" in page.text
    for other in runs.glob("*/*/config.json"):
        other.write_text("{")
    with pytest.raises(SystemExit) as caught:
        main(["", str(runs)])
    assert caught.value.code == 2
    assert "config.json cannot be read" in capsys.readouterr().err


def test_the_command_needs_neither_jax_nor_matplotlib(tmp_path, runs):
    code = (
        "import sys; from fedjax_comp.report.__main__ import main; main(sys.argv);"
        "assert not {'jax', 'matplotlib'} & set(sys.modules)"
    )
    out = f"--out={tmp_path / 'page.html'}"
    command = [sys.executable, "-c", code, str(runs), out]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
