"""The site is made of what is there: no link and no included heading leads nowhere."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fedjax_comp

ROOT = Path(__file__).parents[1]


def load_pages():
    place = ROOT / "docs" / "pages.py"
    spec = importlib.util.spec_from_file_location("pages", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PAGES = load_pages()
LINK = re.compile(r"\]\(([^()\s#]+)(?:#[^()\s]*)?\)")


@pytest.mark.parametrize("path", PAGES.texts())
def test_every_link_of_a_readme_leads_to_a_file(path):
    text = (ROOT / path).read_text(encoding="utf-8")
    prose = "".join(PAGES._FENCE.split(text)[::2])
    for target in LINK.findall(prose):
        if "://" not in target:
            assert ((ROOT / path).parent / target).exists(), target


def test_links_stay_where_there_is_a_page_and_are_words_elsewhere():
    text = (
        "[a](run.py) [b](../frontier/README.md#x) ![c](figures/crossover.png) [d](#y)"
    )
    source = "experiments/data_quantization/README.md"
    kept = "a [b](../frontier/README.md#x) ![c](figures/crossover.png) [d](#y)"
    assert PAGES.relinked(text, source, source) == kept
    moved = PAGES.relinked(text, source, "peers.md")
    assert "[b](experiments/frontier/README.md#x)" in moved
    assert "![c](experiments/data_quantization/figures/crossover.png)" in moved
    code = "```\n[a](run.py)\n```\n\n    [a](run.py)\n"
    assert PAGES.relinked(code, source, source) == code


def test_pages_of_an_experiment_have_names_of_their_own_in_the_menu():
    names = [PAGES.menu_name(x) for x in PAGES.texts() if x.count("/") == 2]
    assert PAGES.menu_name("experiments/benchmark/README.md") == "benchmark"
    assert PAGES.menu_name("experiments/benchmark/trellis.md") == "benchmark: trellis"
    assert len(set(names)) == len(names)


def test_a_section_ends_at_the_next_of_its_level():
    text = "# A\n\n```\n# B\n```\n\n## C\n\nc\n\n# D\n"
    assert PAGES.section(text, "# A") == "```\n# B\n```\n\n## C\n\nc"
    assert PAGES.section(text, "## C") == "c"
    with pytest.raises(ValueError, match="heading '# E'"):
        PAGES.section(text, "# E")


def test_what_pages_include_is_there():
    count = 0
    for path in sorted((ROOT / "docs").glob("*.md")):
        text = path.read_text(encoding="utf-8")
        count += len(PAGES.INCLUDE.findall(text))
        assert "<!-- include" not in PAGES.included(text, path.name)
    assert count >= 5


def test_every_module_is_on_a_page_of_the_api():
    named = {name for names in PAGES.modules().values() for name in names}
    assert {"fedjax_comp.base", "fedjax_comp.compress.quantize.scalar"} <= named
    assert not any("__" in name for name in named)
    linked = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for part in re.findall(r"\(api/(\w+)\.md\)", linked):
        assert part in PAGES.modules()


def test_the_citation_is_of_this_version():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {fedjax_comp.__version__}\n" in text
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\n## {fedjax_comp.__version__} " in changes


@pytest.mark.slow
@pytest.mark.skipif(
    not importlib.util.find_spec("mkdocs"), reason="MkDocs is of the extra docs"
)
def test_the_site_is_built_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", tmp_path]
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "experiments" / "fed_avg" / "index.html").is_file()
    assert (tmp_path / "api" / "base" / "index.html").is_file()
