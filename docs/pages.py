"""The site's pages from what is in the repository already; called by MkDocs.

READMEs, their figures and the docstrings are the text, so nothing is written twice:
a README is a page at its own path, `<!-- include: PATH # HEADING -->` is a section of
one, and every module of the package is a part of an `api/` page. A link to a file that
is no page becomes its text, since there is no address to link to.
"""

import os
import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGE = "fedjax_comp"
INCLUDE = re.compile(r"^<!-- include: (\S+) (#+ .+) -->$", re.M)
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
_FENCE = re.compile(r"^(```.*?^```$|(?: {4}[^\n]*\n)+)", re.M | re.S)


def texts() -> list[str]:
    """Paths of the Markdown files that are pages as they are."""
    inside = [*ROOT.glob("experiments/*/*.md"), *ROOT.glob(f"{PACKAGE}/*/*.md")]
    outside = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
    outside += ["experiments/README.md", f"{PACKAGE}/README.md"]
    tests = ["tests/soak/README.md", "tests/mutation/README.md"]
    return [*outside, *tests, *sorted(x.relative_to(ROOT).as_posix() for x in inside)]


def figures() -> list[str]:
    """Paths of the recorded figures."""
    found = [*ROOT.glob("experiments/*/figures/*.png"), *ROOT.glob("docs/images/*")]
    return sorted(x.relative_to(ROOT).as_posix() for x in found)


def modules() -> dict[str, list[str]]:
    """For each part of the package its public modules, that of the part first."""
    parts: dict[str, list[str]] = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        names = path.relative_to(ROOT).with_suffix("").parts
        names = names[:-1] if names[-1] == "__init__" else names
        if len(names) > 1 and not names[-1].startswith("__"):
            parts.setdefault(names[1], []).append(".".join(names))
    return parts


def section(text: str, heading: str) -> str:
    r"""What stands below a heading, up to the next one of its level or above.

    Raises:
      ValueError: when there is no such heading.

    >>> section("# A\n\none\n\n## B\n\ntwo\n\n# C\n", "# A")
    'one\n\n## B\n\ntwo'
    """
    lines = text.splitlines()
    if heading not in lines:
        raise ValueError(f"Expected a heading {heading!r} in the included file.")
    level = len(heading) - len(heading.lstrip("#"))
    rest = lines[lines.index(heading) + 1 :]
    fenced = False
    for end, line in enumerate(rest):
        fenced ^= line.startswith("```")
        if not fenced and re.match(rf"#{{1,{level}}} ", line):
            rest = rest[:end]
            break
    return "\n".join(rest).strip()


def relinked(text: str, source: str, page: str) -> str:
    """Links of a Markdown file as they are on a page; those that lead out are text.

    Args:
      text: the file's.
      source: its path in the repository.
      page: the path of the page that it stands on.
    """
    there = {*texts(), *figures()}

    def link(match: re.Match[str]) -> str:
        mark, words, target = match.groups()
        path, hash_, anchor = target.partition("#")
        if not path or "://" in target:
            return match[0]
        place = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if place not in there:
            return words
        place = place.removeprefix("docs/")
        way = posixpath.relpath(place, posixpath.dirname(page) or ".")
        return f"{mark}[{words}]({way}{hash_}{anchor})"

    pieces = _FENCE.split(text)
    return "".join(
        piece if i % 2 else _LINK.sub(link, piece) for i, piece in enumerate(pieces)
    )


def included(text: str, page: str) -> str:
    """A page of `docs/` with the sections that it includes."""

    def include(match: re.Match[str]) -> str:
        source = (ROOT / match[1]).read_text(encoding="utf-8")
        return relinked(section(source, match[2]), match[1], page)

    return INCLUDE.sub(include, text)


def api_page(names: list[str]) -> str:
    """A part of the package, from its docstrings; what a package lends only once."""

    def entry(name: str) -> str:
        is_package = (ROOT / name.replace(".", "/")).is_dir()
        return f"::: {name}\n" + "    options: {members: false}\n" * is_package

    return f"# {names[0]}\n\n" + "\n".join(map(entry, names))


def menu_name(path: str) -> str:
    """Of an experiment's page in the menu.

    >>> menu_name("experiments/a/README.md"), menu_name("experiments/a/b.md")
    ('a', 'a: b')
    """
    _, folder, name = path.removesuffix(".md").split("/")
    return folder if name == "README" else f"{folder}: {name}"


# ------------------------------------------------------------------------ for MkDocs


def on_config(config: Any) -> Any:
    """Adds experiments and the API to the menu."""
    experiments = [x for x in texts() if re.match(r"experiments/\w+/", x)]
    config.nav += [
        {"Experiments": [{menu_name(x): x} for x in experiments]},
        {"API": [{part: f"api/{part}.md"} for part in modules()]},
        {"Changes": "CHANGELOG.md"},
    ]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages and figures that lie elsewhere."""
    from mkdocs.structure.files import File

    for path in texts():
        text = (ROOT / path).read_text(encoding="utf-8")
        page = File.generated(config, path, content=relinked(text, path, path))
        files.append(page)
    for path in figures():
        if not path.startswith("docs/"):
            source = os.fspath(ROOT / path)
            files.append(File.generated(config, path, abs_src_path=source))
    for part, names in modules().items():
        content = api_page(names)
        files.append(File.generated(config, f"api/{part}.md", content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Puts included sections in their places."""
    return included(markdown, page.file.src_uri)
