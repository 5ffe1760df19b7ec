"""Numbers as people read them; the unit of a number is in its name.

`uplink_bytes` is shown in SI multiples (1 kB = 1000 B, as links are sold),
`seconds_total` as a duration, `test_accuracy` in percent.
"""

import json
import math

_MULTIPLES = ("B", "kB", "MB", "GB", "TB", "PB")


def format_bytes(num_bytes: float) -> str:
    """A number of bytes in the SI multiple that leaves one to three digits before the
    point, with three significant digits.

    Args:
      num_bytes: how many bytes; whole bytes are shown exactly below 1000.

    Returns:
      The text, for instance `"1.66 MB"`.

    >>> format_bytes(999), format_bytes(1_663_370), format_bytes(2e9)
    ('999 B', '1.66 MB', '2 GB')
    """
    if not math.isfinite(num_bytes):
        return str(num_bytes)
    size, unit = float(num_bytes), _MULTIPLES[0]
    for following in _MULTIPLES[1:]:
        # 999.5 would be rounded to 1000, which belongs to the next multiple.
        if abs(size) < 999.5:
            break
        size, unit = size / 1000, following
    return f"{_three_digits(size)} {unit}"


def format_seconds(seconds: float) -> str:
    """A duration, from microseconds to hours.

    Args:
      seconds: the duration in seconds.

    Returns:
      The text, for instance `"3 min 20 s"`.

    >>> format_seconds(0.00032), format_seconds(1.5), format_seconds(200)
    ('320 µs', '1.5 s', '3 min 20 s')
    """
    if not math.isfinite(seconds):
        return str(seconds)
    for factor, unit in ((1e6, "µs"), (1e3, "ms"), (1.0, "s")):
        limit = 59.95 if unit == "s" else 999.5
        if abs(seconds) * factor < limit:
            return (
                "0 s" if seconds == 0 else f"{_three_digits(seconds * factor)} {unit}"
            )
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min"


def format_value(name: str, value: object) -> str:
    """A value as text, in the unit that its name says.

    Args:
      name: the name of a column, a setting or an entry of a summary.
      value: what to show. `None` is a dash: not known, not reached.

    Returns:
      The text.

    >>> format_value("uplink_bytes", 5321), format_value("test_accuracy", 0.9731)
    ('5.32 kB', '97.31 %')
    >>> format_value("rounds_to_target", None), format_value("rounds", 1200)
    ('–', '1,200')
    >>> format_value("dense_over_compact_seconds", 0.98)
    '0.98×'
    """
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if not isinstance(value, int | float):
        return json.dumps(value, ensure_ascii=False, default=str)
    words = name.lower().split("_")
    if "per" in words:
        # `steps_per_second` counts steps; `seconds_per_round` counts seconds.
        words = words[: words.index("per")]
    if "ratio" in words or "over" in words:  # also of bytes or seconds
        return f"{_three_digits(value)}×"
    if "bytes" in words:
        return format_bytes(value)
    if "seconds" in words:
        return format_seconds(value)
    if "accuracy" in words:
        return f"{100 * value:.2f} %" if math.isfinite(value) else str(value)
    if isinstance(value, int):
        return f"{value:,}" if "seed" not in words else str(value)
    return _four_digits(value)


def _three_digits(number: float) -> str:
    if not math.isfinite(number):
        return str(number)
    decimals = 0 if abs(number) >= 99.95 else 1 if abs(number) >= 9.995 else 2
    text = f"{number:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _four_digits(number: float) -> str:
    if number != 0 and math.isfinite(number) and abs(number) >= 1e4:
        return f"{number:,.0f}"
    return f"{number:.4g}"
