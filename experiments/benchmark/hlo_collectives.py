"""Bytes that a collective in a compiled program's text receives and sends.

The bytes sent depend on the algorithm, which the text does not tell. Counted is the
least that a device sends when all `g` devices of a group send equally much: an
all-reduce by a ring sends `2 (g - 1) / g` of the array, an all-gather and an all-to-all
`(g - 1) / g` of the result (a device's own part stays where it is), a reduce-scatter
`g - 1` times its result. Bytes that pad a TPU's tiles are not counted as sent.
"""

import math
import re

from experiments.benchmark.hlo_text import (
    Instruction,
    arrays_of,
    dimensions,
    type_bytes,
)

_LISTED = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=")
_DEVICES = re.compile(r"\b(?:num_partitions|replica_count)=(\d+)")
_LAYOUT = re.compile(r"\{[^}]*\}")


def devices_of(header: str) -> int:
    """How many devices a program is for, by the first line of its text.

    >>> devices_of("HloModule jit_f, is_scheduled=true, num_partitions=4")
    4
    """
    return math.prod(int(count) for count in _DEVICES.findall(header))


def received_type(one: Instruction) -> str:
    """The type of what a collective brings: of a started one the last arrays."""
    if not one.opcode.endswith("-start") or not one.result.startswith("("):
        return one.result
    big = [array for array in arrays_of(one.result) if dimensions(array)]
    return " ".join(big[len(big) // 2 :])


def group_size(text: str, devices: int) -> int:
    """How many devices take part in a collective together.

    Args:
      text: what stands behind its operands.
      devices: of the program, which all take part where no groups are listed.

    >>> [group_size(f"replica_groups={t}", 8) for t in ("{{0,2},{1,3}}", "[2,4]<=[8]")]
    [2, 4]
    """
    listed, iota = _LISTED.search(text), _IOTA.search(text)
    if listed and listed[1]:
        return listed[1].count(",") + 1
    if iota:
        return int(iota[1].split(",")[-1])
    return devices


def sent_bytes(one: Instruction, devices: int) -> float:
    """Bytes that leave a device in a collective, on average over its group.

    Args:
      one: the collective.
      devices: of the program.
    """
    size = type_bytes(_LAYOUT.sub("", received_type(one)))
    kind = one.opcode.removesuffix("-start")
    if kind == "collective-permute":
        return size
    group = group_size(one.text, devices)
    shares = {"all-reduce": 2 * (group - 1) / group, "reduce-scatter": group - 1}
    return size * shares.get(kind, (group - 1) / group)
