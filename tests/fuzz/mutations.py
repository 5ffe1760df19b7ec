"""Damaged and hostile inputs made of valid ones: the same ones for the same seed."""

import gzip
import io
import json
import random
import re
import zipfile
from collections.abc import Callable
from typing import Any

Mutate = Callable[[bytes, random.Random], bytes]
"""`(valid, random) -> another input`, which may happen to be valid as well."""

TOKENS = [
    *(b"0 -1 1 2 255 256 65536 2147483648 -2147483649 18446744073709551616".split()),
    *(b"nan NaN inf -inf Infinity 1e308 1e999 -1e999 1e-320 0x10 1_0 00 +1".split()),
    *(b"null true false [] {} \"\" ''".split()),
    *("\u0663 \u00b2 \u2028 \ufeff \u2014".encode().split()),
    *(
        b"\x00",
        b"\xff",
        b"\xed\xa0\x80",
        b"\n",
        b"\r",
        b"\n\n",
        b" ",
        b",",
        b'"',
        b"\\",
    ),
]
LONG = [b"9" * 5_000, b"[" * 100_000, b'{"a":' * 20_000, b"1," * 5_000, b" " * 5_000]

VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 10**299, 10**400),
    *(0.5, -0.5, 1e308, 1e-320, float("nan"), float("inf"), float("-inf")),
    *("", "x", "a\nb", "0", "\ud800", [], {}, [[]], [None], [1, "x"], {"a": 1}),
]


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Bits flipped, stretches cut, moved, repeated or overwritten, tokens put in."""
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        data = rng.choice(_EDITS)(data, rng)
    return data


def mutate_text(data: bytes, rng: random.Random) -> bytes:
    """As `mutate_bytes`, or a number, a word or a line of the text put by another."""
    kind = rng.randrange(4)
    if kind == 0:
        return mutate_bytes(data, rng)
    if kind == 1:
        lines = data.split(b"\n")
        i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
        lines[i] = rng.choice([lines[j], b"", lines[i] + b" " + lines[j], b"x"])
        return b"\n".join(lines)
    pattern = rb"[-+.\w]+" if kind == 2 else rb"\d+"
    found = list(re.finditer(pattern, data))
    if not found:
        return mutate_bytes(data, rng)
    place = rng.choice(found)
    return data[: place.start()] + _token(rng) + data[place.end() :]


def mutate_json(data: bytes, rng: random.Random) -> bytes:
    """A node of the tree put by another, taken away or renamed; or as `mutate_text`."""
    if rng.randrange(4) == 0:
        return mutate_text(data, rng)
    value = json.loads(data)
    for _ in range(rng.choice([1, 1, 2])):
        value = _other_tree(value, rng)
    text = json.dumps(value)
    if rng.randrange(8) == 0:
        text = re.sub("null", rng.choice(LONG).decode(), text, count=1)
    return text.encode()


def mutate_json_lines(data: bytes, rng: random.Random) -> bytes:
    """One line as `mutate_json`, or the lines as `mutate_text`."""
    if rng.randrange(4) == 0:
        return mutate_text(data, rng)
    lines = data.splitlines()
    i = rng.randrange(len(lines))
    lines[i] = mutate_json(lines[i], rng)
    return b"\n".join(lines) + b"\n"


def inside_gzip(mutate: Mutate) -> Mutate:
    """Most often what is compressed is changed, else the archive itself."""

    def mutated(data: bytes, rng: random.Random) -> bytes:
        if rng.randrange(4) == 0:
            return mutate_bytes(data, rng)
        return gzip.compress(mutate(gzip.decompress(data), rng), 1, mtime=0)

    return mutated


def inside_zip(mutate: Mutate) -> Mutate:
    """Most often one of its members is changed, its checksum being right."""

    def mutated(data: bytes, rng: random.Random) -> bytes:
        if rng.randrange(4) == 0:
            return mutate_bytes(data, rng)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        chosen = rng.choice(sorted(members))
        # NumPy tells most in the head of a member.
        head, tail = members[chosen][:128], members[chosen][128:]
        members[chosen] = rng.choice(
            [mutate(head, rng) + tail, mutate(members[chosen], rng)]
        )
        if rng.randrange(16) == 0:
            del members[chosen]
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return made.getvalue()

    return mutated


def inside(open_: Callable[[bytes], bytes], close: Callable[[bytes], bytes]) -> Mutate:
    """What a frame holds is changed, and the frame, checksum and all, made anew."""

    def mutated(data: bytes, rng: random.Random) -> bytes:
        return close(mutate_bytes(open_(data), rng))

    return mutated


def _flip(data: bytes, rng: random.Random) -> bytes:
    return _put(data, rng, lambda old: bytes([old[0] ^ 1 << rng.randrange(8)]), 1)


def _overwrite(data: bytes, rng: random.Random) -> bytes:
    size = rng.choice([1, 2, 4, 8])
    value = rng.choice([0, 1, 2 ** (8 * size - 1), 2 ** (8 * size) - 1])
    order = rng.choice(["little", "big"])
    return _put(data, rng, lambda old: value.to_bytes(size, order), size)


def _cut(data: bytes, rng: random.Random) -> bytes:
    return _put(data, rng, lambda old: b"", rng.choice([1, 1, 4, 40, 400]))


def _repeat(data: bytes, rng: random.Random) -> bytes:
    return _put(data, rng, lambda old: old + old, rng.choice([1, 8, 80]))


def _truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _insert(data: bytes, rng: random.Random) -> bytes:
    return _put(data, rng, lambda old: _token(rng) + old, 0)


def _append(data: bytes, rng: random.Random) -> bytes:
    return data + rng.choice([_token(rng), rng.randbytes(rng.choice([1, 9, 100]))])


def _random(data: bytes, rng: random.Random) -> bytes:
    return rng.randbytes(rng.choice([0, 1, 4, 40, len(data)]))


_EDITS = [_flip, _flip, _overwrite, _cut, _repeat, _truncate, _insert, _append, _random]


def _put(
    data: bytes, rng: random.Random, make: Callable[[bytes], bytes], size: int
) -> bytes:
    if not data:
        return _token(rng)
    at = rng.randrange(len(data))
    return data[:at] + make(data[at : at + size]) + data[at + size :]


def _token(rng: random.Random) -> bytes:
    return rng.choice(LONG) if rng.randrange(16) == 0 else rng.choice(TOKENS)


def _other_tree(value: Any, rng: random.Random) -> Any:
    at_leaf = not isinstance(value, dict | list) or not value
    if at_leaf or rng.randrange(5) == 0:
        return rng.choice(VALUES)
    if isinstance(value, list):
        i = rng.randrange(len(value))
        kept, after = value[:i], value[i + 1 :]
        what = rng.randrange(6)
        if what == 0:
            return [*kept, *after]
        if what == 1:
            return [*kept, value[i], value[i], *after]
        return [*kept, _other_tree(value[i], rng), *after]
    name = rng.choice(sorted(value))
    what = rng.randrange(8)
    if what == 0:
        return {n: x for n, x in value.items() if n != name}
    if what == 1:
        return {n if n != name else rng.choice(["", "x"]): x for n, x in value.items()}
    return {**value, name: _other_tree(value[name], rng)}
