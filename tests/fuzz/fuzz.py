"""Runs a parser on inputs that are made of its valid one.

    python -m tests.fuzz.fuzz --count=1000000 "idx images" note

prints a line for each parser (all of them when none is named) and ends with status 1
when one has raised what it may not.
"""

import argparse
import random
import sys
import time
from typing import NamedTuple

from tests.fuzz.parser import Parser
from tests.fuzz.parsers import PARSERS

LONGEST_LINE = 1000


class Outcome(NamedTuple):
    """What came of the inputs.

    Attributes:
      read: inputs that were read.
      refused: inputs that were refused as documented.
      faults: `(seed, what happened)` of the others.
    """

    read: int
    refused: int
    faults: list[tuple[str, str]]


def run(name: str, parser: Parser, count: int, first: int = 0) -> Outcome:
    """Parses `count` inputs, those with the numbers `first`, `first + 1`, ...

    Args:
      name: of the parser; it and an input's number are its seed.
      parser: the parser.
      count: of inputs.
      first: number of the first.
    """
    read, refused, faults = 0, 0, []
    for i in range(first, first + count):
        seed = f"{name} {i}"
        try:
            parser.parse(parser.mutate(parser.valid, random.Random(seed)))
            read += 1
        except parser.allowed as error:
            refused += 1
            line = str(error)
            if not line or "\n" in line or len(line) > LONGEST_LINE:
                faults.append((seed, f"its message is {line[:200]!r}"))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            faults.append((seed, f"{type(error).__name__}: {error}"[:200]))
    return Outcome(read, refused, faults)


def main() -> int:
    """The command."""
    flags = argparse.ArgumentParser(description="fuzz readers")
    flags.add_argument("--count", type=int, default=1000)
    flags.add_argument("--first", type=int, default=0)
    flags.add_argument("parser", nargs="*")
    given = flags.parse_args()
    status = 0
    for name in given.parser or PARSERS:
        begin = time.perf_counter()
        outcome = run(name, PARSERS[name], given.count, given.first)
        rate = given.count / (time.perf_counter() - begin)
        print(
            f"{name}: {outcome.read} read, {outcome.refused} refused, "
            f"{len(outcome.faults)} faults, {rate:.0f} a second",
            flush=True,
        )
        for seed, what in outcome.faults[:10]:
            print(f"  {seed!r}: {what}")
        status |= bool(outcome.faults)
    return status


if __name__ == "__main__":
    sys.exit(main())
