"""How much of each operand a fusion reads, traced back from what its result needs.

Of an operand that is only sliced, a fusion reads the slice; any other operand it reads
once, however often it is used. So the share of each value that is needed is propagated
from the result to the operands, as in XLA's own analysis for GPUs: a slice needs its
own size, a sum over an axis all terms of the sums that are needed, a product all
of both of its operands.
"""

import math
from collections.abc import Mapping

from experiments.benchmark.hlo_text import Instruction, called_by, dimensions

Computations = Mapping[str, Mapping[str, Instruction]]

_TAKEN = frozenset({"slice", "dynamic-slice", "gather"})
_SUMMED = frozenset({"reduce", "reduce-window"})
_MOVED = frozenset({"broadcast", "pad", "concatenate", "reverse", "copy", "transpose"})


def shares_read(
    computations: Computations, roots: Mapping[str, str], name: str, share: float = 1.0
) -> dict[str, float]:
    """What share of each parameter a fused computation reads.

    Args:
      computations: of the program, instructions by name, operands before their users.
      roots: the name of the instruction that is each one's result.
      name: of the fused computation.
      share: of its result that is asked for, in [0, 1].

    Returns:
      A share in [0, 1] for each parameter, by its index as text.
    """
    here = computations[name]
    in_place = _in_place(here, roots[name])
    asked: dict[str, float] = {roots[name]: share * _size(here[roots[name]])}
    found: dict[str, float] = {}
    for one in reversed(list(here.values())):
        size = _size(one)
        part = min(asked.get(one.name, 0.0), size)
        if one.opcode == "parameter":
            found[one.literal] = part / size
            continue
        if not part:
            continue
        inside = {}
        if one.opcode == "fusion":
            (called,) = called_by(one)
            inside = shares_read(computations, roots, called, part / size)
        needs: dict[str, float] = {}
        for place, operand in enumerate(one.operands):
            whole = _size(here[operand])
            if one.opcode == "fusion":
                need = whole * inside[str(place)]
            elif one.name in in_place and place == 0:
                need = 0.0
            else:
                need = _needed(one, place, part, size, whole)
            # The same numbers, where it is an operand twice.
            needs[operand] = max(need, needs.get(operand, 0.0))
        for operand, need in needs.items():
            whole = _size(here[operand])
            asked[operand] = min(whole, asked.get(operand, 0.0) + need)
    return found


def _needed(
    one: Instruction, place: int, part: float, size: float, whole: float
) -> float:
    """Numbers of an operand for `part` of the `size` numbers of a result."""
    if one.opcode == "tuple":
        return whole
    if one.opcode in _TAKEN:
        return part if place == 0 else whole * part / size
    if one.opcode in _SUMMED:
        return whole * part / size
    if one.opcode in _MOVED or whole == size:
        return min(part, whole)
    return whole


def _in_place(here: Mapping[str, Instruction], root: str) -> set[str]:
    """Updates of a slice that are results themselves, written where operands lie."""
    one = here[root]
    if one.opcode == "dynamic-update-slice":
        return {root}
    if one.opcode in ("bitcast", "copy", "tuple"):
        return set().union(*(_in_place(here, part) for part in one.operands))
    return set()


def _size(one: Instruction) -> float:
    """Numbers of a value; 1 of a tuple, which is asked for as a whole."""
    if one.result.startswith("("):
        return 1.0
    return float(math.prod(dimensions(one.result))) or 1.0
