"""FLOPs of a convolution in a compiled program's text."""

import re

import numpy as np


def convolution_flops(
    left: tuple[int, ...], right: tuple[int, ...], result: tuple[int, ...], text: str
) -> float:
    """Two for each product of an input and a number of the kernel, padding left out."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", text)
    window = re.search(r"window=\{([^}]*)\}", text)
    assert labels
    inputs, kernel, outputs = labels[1], labels[2], labels[3]
    window_text = window[1] if window else ""
    pairs = 1.0
    for axis in sorted(set(inputs) - {"b", "f"}):
        place = int(axis)
        pairs *= _pairs(
            left[inputs.index(axis)],
            right[kernel.index(axis)],
            result[outputs.index(axis)],
            stride=_window(window_text, "stride", place, 1),
            pad=_window(window_text, "pad", place, 0),
            left_dilation=_window(window_text, "lhs_dilate", place, 1),
            right_dilation=_window(window_text, "rhs_dilate", place, 1),
        )
    batch, features = result[outputs.index("b")], result[outputs.index("f")]
    return 2.0 * batch * features * right[kernel.index("i")] * pairs


def _window(text: str, name: str, place: int, default: int) -> int:
    found = re.search(rf"\b{name}=([\w\-]+)", text)
    if found is None:
        return default
    # Padding is `low_high` of each axis.
    return int(found[1].split("x")[place].split("_")[0])


def _pairs(
    length: int,
    kernel: int,
    result: int,
    *,
    stride: int,
    pad: int,
    left_dilation: int,
    right_dilation: int,
) -> int:
    """How many pairs of a result's place and a kernel's meet a number of the input.

    >>> _pairs(4, 3, 4, stride=1, pad=1, left_dilation=1, right_dilation=1)
    10
    """
    place = np.arange(result)[:, None] * stride - pad
    place = place + np.arange(kernel) * right_dilation
    inside = (place >= 0) & (place <= (length - 1) * left_dilation)
    return int(np.sum(inside & (place % left_dilation == 0)))
