"""Doctests as blocks of code: Griffe, which reads docstrings, takes them for text."""

import re
from typing import Any

import griffe

_DOCTEST = re.compile(r"^>>> .*?(?=\n[ \t]*\n|\Z)", re.M | re.S)

_HEADING = re.compile(r"^Example:$", re.M)


class Doctests(griffe.Extension):
    """Puts a fence around every doctest that has no section of its own."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for every module, class, function and attribute."""
        if obj.docstring is not None:
            text = _HEADING.sub("Examples:", obj.docstring.value)
            obj.docstring.value = _DOCTEST.sub(
                lambda found: f"```pycon\n{found[0]}\n```", text
            )
