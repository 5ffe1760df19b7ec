"""Numbers keep three significant digits and never overstate their unit."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedjax_comp.report.units import format_bytes, format_seconds, format_value

_FACTORS = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "PB": 1e15}
_SECONDS = {"µs": 1e-6, "ms": 1e-3, "s": 1, "min": 60, "h": 3600}


def _read(text: str, factors: dict[str, float]) -> float:
    return sum(
        float(number.replace(",", "")) * factors[unit]
        for number, unit in re.findall(r"([\d.,]+) (\S+)", text)
    )


@given(st.integers(min_value=1, max_value=10**15))
def test_bytes_read_back_to_half_a_unit_of_the_third_digit(num_bytes: int) -> None:
    text = format_bytes(num_bytes)
    assert abs(_read(text, _FACTORS) - num_bytes) <= 0.005 * num_bytes
    assert len(re.sub(r"\D", "", text)) <= 3


@given(st.integers(min_value=0, max_value=999))
def test_fewer_than_a_thousand_bytes_are_exact(num_bytes: int) -> None:
    assert format_bytes(num_bytes) == f"{num_bytes} B"


@given(st.floats(min_value=1e-5, max_value=1e7))
def test_seconds_read_back(seconds: float) -> None:
    # From an hour on, minutes are the smallest unit: at most 60 s are dropped.
    error = abs(_read(format_seconds(seconds), _SECONDS) - seconds)
    assert error <= (60 if seconds >= 3599.5 else max(0.005 * seconds, 0.501))
    if seconds < 59:
        assert error <= 0.0051 * seconds + 0.5e-8


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("client_steps_per_second", 12345.6, "12,346"),
        ("seconds_per_round", 0.5, "500 ms"),
        ("bytes_per_round", 2000, "2 kB"),
        ("best_test_accuracy", 1.0, "100.00 %"),
        ("test_accuracy", math.nan, "nan"),
        ("uplink_bytes", math.inf, "inf"),
        ("uplink_ratio", 57.04, "57×"),
        ("bytes_ratio", 5.028, "5.03×"),
        ("seconds_batch_1_ratio", 1.085, "1.08×"),
        ("seed", 20260101, "20260101"),
        ("holds", True, "yes"),
        ("uplink", "top_k(0.01)", "top_k(0.01)"),
        ("versions", {"jax": "0.10"}, '{"jax": "0.10"}'),
        ("learning_rate", 0.1, "0.1"),
        ("rounds_to_target", None, "–"),
    ],
)
def test_the_name_gives_the_unit(name: str, value: object, text: str) -> None:
    assert format_value(name, value) == text


def test_minutes_never_show_sixty_seconds() -> None:
    assert format_seconds(59.9) == "59.9 s"
    assert format_seconds(59.99) == "1 min 0 s"
    assert format_seconds(119.7) == "2 min 0 s"
    assert format_seconds(3599.6) == "1 h 0 min"
    assert format_bytes(999_499) == "999 kB"
    assert format_bytes(999_500) == "1 MB"
