"""Bits a coordinate at equal error: `python -m experiments.rate_distortion.at_error`.

    python -m experiments.rate_distortion.at_error runs/updates [--error=0.1 ...]

It prints them for every family of compressors in a run's rows, on every source, by
log-linear interpolation between the two rows around an error. `--with` names families
that count as one, by their least bits (`--with="NNCodec"` takes all that begin so).
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from fedjax_comp.run_directory import Json

ERRORS = (0.5, 0.3, 0.2, 0.1, 0.05, 0.02)


def bits_at(points: Iterable[tuple[float, float]], error: float) -> float | None:
    """Bits at an error, between the points around it; None outside of all.

    Args:
      points: `(vnmse, bits)`.
      error: the vNMSE.

    >>> bits_at([(0.1, 2.0), (0.4, 1.0)], 0.2)
    1.5
    """
    errors, bits = map(np.asarray, zip(*sorted(points), strict=True))
    if not errors[0] <= error <= errors[-1]:
        return None
    return round(float(np.interp(np.log(error), np.log(errors), bits)), 12)


def curves(rows: Iterable[Json]) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """`(source, family)` to its points, rows that failed left out."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in rows:
        if row.get("vnmse") and row.get("rate_bits"):
            key = (row["source"], row["family"])
            found.setdefault(key, []).append((row["vnmse"], row["rate_bits"]))
    return found


def table(
    rows: Iterable[Json], errors: Sequence[float], together: Sequence[str] = ()
) -> list[str]:
    """Lines of a Markdown table: a source and a family, and bits at each error.

    Args:
      rows: of a run of the experiment.
      errors: vNMSE.
      together: beginnings of families of which the least bits count as one.
    """
    lines: dict[tuple[str, str], list[float | None]] = {}
    for (source, family), points in curves(rows).items():
        name = next((x for x in together if family.startswith(x)), family)
        bits = [bits_at(points, error) for error in errors]
        known = lines.get((source, name), [None] * len(bits))
        lines[source, name] = [
            min((x for x in pair if x is not None), default=None)
            for pair in zip(bits, known, strict=True)
        ]
    head = ["| source | family | " + " | ".join(f"{e:g}" for e in errors) + " |"]
    head.append("|---" * (2 + len(errors)) + "|")
    return head + [
        f"| `{source}` | {name} | "
        + " | ".join("" if x is None else f"{x:.4f}" for x in bits)
        + " |"
        for (source, name), bits in sorted(lines.items())
    ]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="bits at equal error")
    parser.add_argument("run", type=Path, help="a run directory of the experiment")
    parser.add_argument("--error", type=float, action="append")
    parser.add_argument("--with", dest="together", action="append", default=[])
    given = parser.parse_args()
    path = given.run / "metrics.jsonl"
    if not path.exists():
        parser.error(f"{given.run} has no metrics.jsonl: no run of the experiment.")
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    print("\n".join(table(rows, given.error or ERRORS, given.together)))


if __name__ == "__main__":
    main()
