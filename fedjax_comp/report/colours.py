"""Colours of curves, on a light page and on a dark one."""

import colorsys
import math

_COLOURS = (
    ("#0072B2", "#5AB4F0"),
    ("#B84A00", "#FF8A3D"),
    ("#007A5A", "#2FCB9A"),
    ("#A8447F", "#EE92C4"),
    ("#806000", "#E0B030"),
    ("#5B4FC7", "#A79BFF"),
    ("#8A2B3C", "#FF8FA0"),
)


def colours(number: int) -> list[tuple[str, str]]:
    """Colours on a light page and on a dark one, no two alike.

    The first are Okabe and Ito's ("Color Universal Design", 2008), darker or lighter
    for their page; each further one is the one farthest from those before.

    Args:
      number: how many, at most 100.

    >>> len(set(colours(40)))
    40
    """
    found = list(_COLOURS[:number])
    candidates = [
        (_hex(turn / 34, light, saturation), _hex(turn / 34, dark, saturation))
        for turn in range(34)
        for light, dark in ((0.22, 0.84), (0.30, 0.76), (0.36, 0.68), (0.42, 0.62))
        for saturation in (0.75, 0.3)
    ]
    left = [one for one in candidates if _shade(one[0]) < 0.2 and _shade(one[1]) > 0.24]
    nearest = [min(_distance(one, other) for other in _COLOURS) for one in left]
    while len(found) < number:
        chosen = max(range(len(left)), key=nearest.__getitem__)
        found.append(left[chosen])
        nearest = [
            min(old, _distance(one, left[chosen]))
            for old, one in zip(nearest, left, strict=True)
        ]
    return found


def _hex(turn: float, lightness: float, saturation: float = 0.75) -> str:
    rgb = colorsys.hls_to_rgb(turn, lightness, saturation)
    return "#" + "".join(f"{round(255 * x):02X}" for x in rgb)


def _shade(colour: str) -> float:
    """Relative luminance: below 0.2 letters are legible on white, above 0.24 on black
    (4.2 to 1 and more; W3C, "Web Content Accessibility Guidelines" 2.2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [
        x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _distance(one: tuple[str, str], other: tuple[str, str]) -> float:
    """The smaller of the distances on the two pages; green counts most, blue least."""
    return min(
        math.hypot(
            *(
                weight * (int(a[i : i + 2], 16) - int(b[i : i + 2], 16))
                for i, weight in ((1, 1.5), (3, 2.0), (5, 1.0))
            )
        )
        for a, b in zip(one, other, strict=True)
    )
