"""What a compiled program does: bytes, FLOPs and collectives, loops multiplied out.

`Compiled.cost_analysis()` counts the body of a loop once, but rounds are loops over
steps and clients. So this module reads the text of the optimised program
(`Compiled.as_text()`): every instruction counts the bytes of its operands and its
result, as in XLA's analysis, times the number of times that it runs.

- An instruction that takes a part of a large operand (a slice, some rows) counts only
  that part, also inside fusions; one that writes a part of an array likewise.
- The length of a loop is the one that the compiler noted, or the number with which its
  condition compares a counter; a loop of unknown length counts once, and
  `unknown_loops` says how many there are.
- FLOPs are those of matrix products and convolutions, two a multiplication.
- Of several branches only the most expensive one counts.

A TPU's compiler says of each array in which memory it lies. Bytes are of all memories,
as in its own analysis; those of main memory are also counted by themselves.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

from experiments.benchmark.hlo_collectives import (
    devices_of,
    received_type,
    sent_bytes,
)
from experiments.benchmark.hlo_convolution import convolution_flops
from experiments.benchmark.hlo_reads import shares_read
from experiments.benchmark.hlo_text import (
    Instruction,
    arrays_of,
    called_by,
    dimensions,
    in_main_memory,
    parsed,
    type_bytes,
)

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = (.*)$")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')

FREE = frozenset(
    {
        "parameter",
        "constant",
        "tuple",
        "get-tuple-element",
        "bitcast",
        "after-all",
        "partition-id",
        "replica-id",
        "add-dependency",
        "opt-barrier",
    }
)
FREE_CALLS = ('"AllocateBuffer"', '"ConcatBitcast"')
"""Targets of custom calls that move nothing."""

COLLECTIVES = frozenset(
    {
        "all-reduce",
        "all-gather",
        "reduce-scatter",
        "all-to-all",
        "collective-permute",
        "collective-broadcast",
        "ragged-all-to-all",
    }
)


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of a program or of a part of it.

    Attributes:
      flops: of matrix products and convolutions.
      num_bytes: read and written, in any memory.
      main_bytes: of these, in main memory.
      collectives: bytes of the results of each kind of collective, a device's own.
      unknown_loops: loops that count once because their length is not in the text.
      sent: bytes that leave a device in each kind of collective, on average and without
        what fills up tiles (`hlo_collectives`).
    """

    flops: float = 0.0
    num_bytes: float = 0.0
    main_bytes: float = 0.0
    collectives: dict[str, float] = dataclasses.field(default_factory=dict)
    unknown_loops: int = 0
    sent: dict[str, float] = dataclasses.field(default_factory=dict)

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.flops + other.flops,
            self.num_bytes + other.num_bytes,
            self.main_bytes + other.main_bytes,
            _added(self.collectives, other.collectives),
            self.unknown_loops + other.unknown_loops,
            _added(self.sent, other.sent),
        )

    def times(self, count: int) -> "Cost":
        """That of `count` runs; loops of unknown length are counted once."""
        return Cost(
            self.flops * count,
            self.num_bytes * count,
            self.main_bytes * count,
            {kind: size * count for kind, size in self.collectives.items()},
            self.unknown_loops,
            {kind: size * count for kind, size in self.sent.items()},
        )


def _added(ours: dict[str, float], theirs: dict[str, float]) -> dict[str, float]:
    kinds = sorted({*ours, *theirs})
    return {kind: ours.get(kind, 0) + theirs.get(kind, 0) for kind in kinds}


class Program:
    """A compiled module, from its text.

    Args:
      text: of `Compiled.as_text()`.

    Raises:
      ValueError: for a text without an entry computation.
    """

    def __init__(self, text: str) -> None:
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.roots: dict[str, str] = {}
        self.entry = ""
        self.devices = devices_of(text.partition("\n")[0])
        # Caches of this program alone, which go when it goes.
        self._cost = functools.cache(self._cost_once)
        self._shares = functools.cache(self._shares_once)
        self._cost_of_fused = functools.cache(self._cost_of_fused_once)
        current = ""
        for line in text.splitlines():
            header = _HEADER.match(line)
            if header:
                current = header[2]
                self.computations[current] = {}
                if header[1]:
                    self.entry = current
            elif current and (found := _INSTRUCTION.match(line)):
                instruction = parsed(found[2], found[3])
                self.computations[current][instruction.name] = instruction
                if found[1]:
                    self.roots[current] = instruction.name
        if not self.entry:
            raise ValueError("Expected the text of a compiled program, with an ENTRY.")

    @functools.cached_property
    def cost(self) -> Cost:
        """Of one run."""
        return self._cost(self.entry)

    def _cost_once(self, name: str) -> Cost:
        total = Cost()
        for instruction in self.computations[name].values():
            total += self._one(name, instruction)
        return total

    def _one(self, where: str, one: Instruction) -> Cost:
        kind = one.opcode.removesuffix("-start")
        if one.opcode in FREE or one.opcode.endswith(("-done", "-update")):
            return Cost()
        if one.opcode == "custom-call" and any(x in one.text for x in FREE_CALLS):
            return Cost()
        if one.opcode == "while":
            return self._loop(one)
        if one.opcode == "conditional":
            branches = [self._cost(called) for called in called_by(one)]
            return max(branches, key=lambda cost: (cost.num_bytes, cost.flops))
        if one.opcode in ("call", "async-start"):
            return sum((self._cost(called) for called in called_by(one)), Cost())
        moved = list(self._moved(where, one))
        size = sum(part for part, _ in moved)
        main = sum(part for part, array in moved if in_main_memory(array))
        if kind in COLLECTIVES:
            received = {kind: type_bytes(received_type(one))}
            sent = {kind: sent_bytes(one, self.devices)}
            return Cost(0.0, size, main, received, sent=sent)
        return Cost(self._flops(where, one), size, main)

    def _loop(self, loop: Instruction) -> Cost:
        condition = re.search(r"condition=%?([\w.\-]+)", loop.text)
        body = re.search(r"body=%?([\w.\-]+)", loop.text)
        assert condition
        assert body
        once = self._cost(condition[1]) + self._cost(body[1])
        count = self._trips(loop, condition[1])
        if count is None:
            return once + Cost(unknown_loops=1)
        return once.times(count)

    def _trips(self, loop: Instruction, condition: str) -> int | None:
        """How often a loop runs, for counters that begin at 0."""
        noted = _TRIPS.search(loop.text)
        if noted:
            return int(noted[1])
        parts = [condition, *self._reached(condition)]
        compared = [
            one
            for name in parts
            for one in self.computations[name].values()
            if one.opcode == "compare"
        ]
        limits = [
            int(one.literal)
            for name in parts
            for one in self.computations[name].values()
            if one.opcode == "constant"
            and one.literal.isdigit()
            and one.result.startswith(("s32", "u32", "s64", "u64"))
        ]
        if len(compared) == 1 and len(limits) == 1:
            return limits[0] if "direction=LT" in compared[0].text else None
        return None

    def _reached(self, name: str) -> Iterator[str]:
        for one in self.computations[name].values():
            for called in called_by(one):
                yield called
                yield from self._reached(called)

    # ------------------------------------------------------------------------ bytes

    def _moved(self, where: str, one: Instruction) -> Iterator[tuple[float, str]]:
        """Bytes that are read or written, each with an array of the memory it is in."""
        here = self.computations[where]
        given = [here[name].result for name in one.operands]
        match one.opcode:
            case "dynamic-slice" | "slice":
                yield from self._copied(given[0], one.result, one.result)
            case "slice-start" | "dynamic-slice-start" | "copy-start":
                # The operand, the result and a flag.
                to = arrays_of(one.result)[-2 if "slice" in one.opcode else 0]
                yield from self._copied(given[0], to, to)
            case "dynamic-update-slice":
                yield from self._copied(given[1], one.result, given[1])
            case "gather":
                yield from self._copied(given[0], one.result, one.result)
                yield type_bytes(given[1]), given[1]
            case "scatter":
                count = (len(given) - 1) // 2
                yield type_bytes(given[count]), given[count]
                for target, update in zip(given, given[count + 1 :], strict=False):
                    yield from self._copied(update, target, update)
            case "fusion":
                (called,) = called_by(one)
                shares = self._shares(called)
                for i, array in enumerate(given):
                    yield shares[str(i)] * type_bytes(array), array
                written = self._written(called, self.roots[called])
                yield min(type_bytes(one.result), written), arrays_of(one.result)[0]
            case _:
                for text in (*given, one.result):
                    for array in arrays_of(text):
                        yield type_bytes(array), array

    @staticmethod
    def _copied(source: str, target: str, size: str) -> Iterator[tuple[float, str]]:
        yield type_bytes(size), source
        yield type_bytes(size), target

    def _shares_once(self, computation: str) -> dict[str, float]:
        return shares_read(self.computations, self.roots, computation)

    def _written(self, computation: str, name: str) -> float:
        """Bytes that a fused computation writes of its result."""
        here = self.computations[computation]
        one = here[name]
        match one.opcode:
            case "dynamic-update-slice":
                # What is put there was read, or computed, by the fusion itself.
                return type_bytes(here[one.operands[1]].result)
            case "bitcast" | "copy" if one.operands:
                inner = self._written(computation, one.operands[0])
                return min(inner, type_bytes(one.result))
            case "tuple":
                return sum(self._written(computation, part) for part in one.operands)
            case "fusion":
                (called,) = called_by(one)
                return self._written(called, self.roots[called])
        return type_bytes(one.result)

    # ------------------------------------------------------------------------ FLOPs

    def _flops(self, where: str, one: Instruction) -> float:
        here = self.computations[where]
        if one.opcode == "fusion":
            return sum(self._cost_of_fused(called) for called in called_by(one))
        if one.opcode not in ("dot", "convolution"):
            return 0.0
        left, right = (dimensions(here[name].result) for name in one.operands[:2])
        result = dimensions(one.result)
        if one.opcode == "dot":
            over = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.text)
            axes = [int(axis) for axis in over[1].split(",") if axis] if over else []
            return 2.0 * math.prod(result) * math.prod(left[axis] for axis in axes)
        return convolution_flops(left, right, result, one.text)

    def _cost_of_fused_once(self, name: str) -> float:
        return sum(self._flops(name, one) for one in self.computations[name].values())
