"""The factories' checks of their arguments, in one wording."""

import math


def positive(name: str, value: float) -> None:
    """`ValueError` unless `value` is finite and above 0."""
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"Expected {name}={value}, a finite number above 0.")


def not_negative(name: str, value: float) -> None:
    """`ValueError` unless `value` is finite and at least 0."""
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"Expected {name}={value}, a finite number of at least 0.")
