"""JSON as RFC 8259 defines it: reading what others may have written, and writing.

Reading raises one kind of error, whatever is in the text. Writing puts null for a
number that is not finite, since JSON has no NaN and no infinity.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

NUMBER = (int, float)
"""The types of a number; `bool`, which Python counts among them, is left out."""

MOST_DIGITS = 300
"""Of an integer: every such one is a finite float."""

Shape = type | tuple[type, ...]


def parse(text: str | bytes) -> Any:
    """The value of a JSON text.

    Args:
      text: UTF-8 when bytes.

    Raises:
      ValueError: when `text` is not JSON, is nested too deeply, holds an integer of
        more than `MOST_DIGITS` digits, or has a key twice in an object: readers differ
        in which of the two values they take.

    >>> parse('{"a": [1]}')
    {'a': [1]}
    >>> parse("[" * 100_000)
    Traceback (most recent call last):
    ...
    ValueError: nested too deeply
    >>> parse('{"seed": 1, "seed": 2}')
    Traceback (most recent call last):
    ...
    ValueError: the key 'seed' twice
    """
    try:
        return json.loads(text, parse_int=_integer, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def check_fields(value: object, fields: Mapping[str, Shape]) -> dict[str, Any]:
    """Refuses anything but an object that has (at least) these fields.

    Args:
      value: from `parse`.
      fields: name to the type of its value, or to several; `NoneType` is null.

    Returns:
      `value`.

    Raises:
      ValueError: with the field that is missing or of another type.

    >>> check_fields({"round": 3, "more": 1}, {"round": int})
    {'round': 3, 'more': 1}
    >>> check_fields({"round": "3"}, {"round": int})
    Traceback (most recent call last):
    ...
    ValueError: Expected 'round' to be int, got str.
    """
    if not isinstance(value, dict):
        raise ValueError(f"Expected an object, got {_name(type(value))}.")
    for name, shape in fields.items():
        allowed = shape if isinstance(shape, tuple) else (shape,)
        if name not in value:
            raise ValueError(f"Expected a field {name!r}, which is missing.")
        found = value[name]
        is_flag = isinstance(found, bool) and bool not in allowed
        if is_flag or not isinstance(found, allowed):
            raise ValueError(
                f"Expected {name!r} to be {' or '.join(map(_name, allowed))}, got "
                f"{_name(type(found))}."
            )
    return value


def parse_lines(text: str, fields: Mapping[str, Shape]) -> list[Any]:
    r"""The objects of a file with one a line.

    Args:
      text: whole lines; what follows the last line break is left out.
      fields: of each, as for `check_fields`.

    Raises:
      ValueError: as those, with the number of the line.

    >>> parse_lines('{"round": 1}\n{"rou', {"round": int})
    [{'round': 1}]
    """
    rows = []
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        try:
            rows.append(check_fields(parse(line), fields))
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
    return rows


def _integer(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the key {twice[:40]!r} twice")
    return found


def _name(kind: type) -> str:
    words = {dict: "an object", list: "a list", type(None): "null"}
    return words.get(kind, kind.__name__)


def to_text(value: Any, *, indent: int | None = None) -> str:
    """A value as JSON.

    >>> to_text({"loss": float("nan"), "rounds": 3})
    '{"loss": null, "rounds": 3}'
    """
    return json.dumps(finite(value), indent=indent, allow_nan=False)


def finite(value: Any) -> Any:
    """A value with None for every float in it that is not finite.

    >>> finite({"all": (1.0, float("inf"))})
    {'all': [1.0, None]}
    """
    match value:
        case float() if not math.isfinite(value):
            return None
        case Mapping():
            return {name: finite(one) for name, one in value.items()}
        case list() | tuple():
            return [finite(one) for one in value]
    return value
