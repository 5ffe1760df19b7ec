"""The text of a compiled program: types, layouts and instructions.

`Compiled.as_text()` is in XLA's own notation. A type is followed by its layout: the
order of axes, and on a TPU the tile to which arrays are padded and the memory
that they are in.
"""

import dataclasses
import math
import re

_BITS = {"pred": 8, "token": 0, "opaque": 0}
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](?:\{([\d,]*)(?::([^}]*))?\})?")
_TILE = re.compile(r"T\(([\d,]+)\)")
_ELSEWHERE = re.compile(r"S\(\d+\)")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name: without the percent sign.
      result: its type, arrays and layouts.
      opcode: such as "fusion".
      operands: names.
      text: the whole line behind the operands.
      literal: what stands where operands do, for a constant.
    """

    name: str
    result: str
    opcode: str
    operands: tuple[str, ...]
    text: str
    literal: str


def dimensions(array: str) -> tuple[int, ...]:
    """Of the first array of a type.

    >>> dimensions("f32[3,4]{1,0:T(8,128)}")
    (3, 4)
    """
    found = _ARRAY.search(array)
    return _sizes(found[2]) if found else ()


def type_bytes(text: str) -> float:
    """Bytes of a type, all arrays of a tuple together, as they lie in memory.

    A TPU's arrays are made of tiles, mostly of 8 x 128 numbers, and filled up to them.

    >>> type_bytes("(f32[3,4]{1,0}, pred[8]{0}, s4[3]{0})")
    57.5
    >>> type_bytes("f32[3,4]{1,0:T(8,128)}")
    4096.0
    """
    total = 0.0
    for dtype, sizes, order, layout in _ARRAY.findall(text):
        digits = re.search(r"\d+", dtype)
        bits = _BITS.get(dtype, int(digits[0]) if digits else 0)
        filled, tile = list(_sizes(sizes)), _TILE.search(layout)
        sides = reversed(_sizes(tile[1])) if tile else ()
        # The last side of a tile is of the axis that varies fastest, `order` its first.
        for axis, side in zip(_sizes(order), sides, strict=False):
            filled[axis] = -(-filled[axis] // side) * side
        total += bits * math.prod(filled) / 8
    return total


def arrays_of(text: str) -> list[str]:
    """The arrays of a type, each with its layout.

    >>> arrays_of("(f32[3]{0}, /*index=1*/pred[]{:T(512)})")
    ['f32[3]{0}', 'pred[]{:T(512)}']
    """
    return [found[0] for found in _ARRAY.finditer(text)]


def in_main_memory(array: str) -> bool:
    """Whether an array is in main memory, and not in a chip's own.

    >>> in_main_memory("f32[8]{0:T(128)}"), in_main_memory("f32[8]{0:T(128)S(1)}")
    (True, False)
    """
    return _ELSEWHERE.search(array) is None


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(size.lstrip("<=")) for size in text.split(",") if size)


def parsed(name: str, rest: str) -> Instruction:
    result, rest = _split_type(rest)
    opcode, _, rest = rest.partition("(")
    inside, text = _closed(rest)
    operands = tuple(re.findall(r"%([\w.\-]+)", inside))
    return Instruction(name, result, opcode.strip(), operands, text, inside)


def _split_type(rest: str) -> tuple[str, str]:
    if rest.startswith("("):
        inside, after = _closed(rest[1:])
        return f"({inside})", after.lstrip()
    result, _, after = rest.partition(" ")
    return result, after


def _closed(text: str) -> tuple[str, str]:
    """What stands before the parenthesis that closes, and behind it."""
    depth = 1
    for place, letter in enumerate(text):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if not depth:
            return text[:place], text[place + 1 :]
    return text, ""


def called_by(one: Instruction) -> list[str]:
    branches = _BRANCHES.search(one.text)
    if branches:
        return re.findall(r"%?([\w.\-]+)", branches[1])
    if one.opcode == "conditional":
        return re.findall(r"(?:true|false)_computation=%?([\w.\-]+)", one.text)
    return _CALLED.findall(one.text)
