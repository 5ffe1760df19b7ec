"""Which compressor should I use? Bits, error and cost of every factory, on one input.

    python -m experiments.benchmark.compressors --markdown

The input is one leaf, float32 `[512, 512]`, of Gaussian coordinates and once more of
signed LogNormal(0, 1) ones, both scaled to a mean square of 1. Errors and bits are
measured as in `experiments.rate_distortion`, on messages that were really written.
`cost` is the least time of a compiled encoding and decoding, divided by the least time
of a copy of the input on the host; copies take turns with the compressors.
"""

import math
import os
import sys
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from experiments.benchmark.compressor_rows import STAGES, Row
from experiments.benchmark.pipeline_rows import PIPELINES
from experiments.rate_distortion.measure import Measurement, measure
from experiments.rate_distortion.sources import DRAWN, Source
from fedjax_comp.base import Compressor
from fedjax_comp.experiment.expressions import build

FLAGS = flags.FLAGS
ROOMS = STAGES | PIPELINES
ROWS = tuple(row for rows in ROOMS.values() for row in rows)
EXACT = 1e-9
"""A relative error below it is rounding."""
MARGIN = 1.2
"""A bias of more than so many times what noise alone makes of it is one."""


class Result(NamedTuple):
    """What was measured of one row.

    Attributes:
      gaussian: on Gaussian coordinates.
      lognormal: on signed LogNormal(0, 1) coordinates.
    """

    gaussian: Measurement
    lognormal: Measurement


def define_flags() -> None:
    """Defines this script's flags; called once, when it is run."""
    flags.DEFINE_bool("markdown", False, "Print the tables of compress/README.md.")
    flags.DEFINE_integer("side", 512, "Of the square leaf.", lower_bound=64)
    flags.DEFINE_integer("trials", 10, "Messages of each.", lower_bound=2)
    flags.DEFINE_multi_string("only", [], "Factories to measure; all by default.")


def make_source(name: str, side: int) -> Source:
    """One leaf `[side, side]` of a distribution, with a mean square of 1."""
    x = DRAWN[name](jax.random.key(1), side * side)
    x = x / jnp.sqrt(jnp.mean(jnp.square(x)))
    return Source(name, [x.reshape(side, side)])


def copy_seconds(x: jax.Array, repeats: int = 20) -> float:
    """The least time of a copy into memory that is there already."""
    source = np.array(x)
    target = np.empty_like(source)
    least = math.inf
    for _ in range(repeats):
        started = time.perf_counter()
        np.copyto(target, source)
        least = min(least, time.perf_counter() - started)
    return least


def kind(measured: Measurement) -> str:
    """What the trials say of the mean: "exact", "unbiased" or "biased"."""
    if measured.vnmse < EXACT:
        return "exact"
    within = measured.bias <= MARGIN * measured.bias_noise
    return "unbiased" if within else "biased"


def to_line(row: Row, result: Result, copy: float) -> str:
    """A row of the table, in Markdown."""
    errors = [
        "exact" if m.vnmse < EXACT else f"{m.vnmse:.3g}"
        for m in (result.gaussian, result.lognormal)
    ]
    bits = [f"{m.rate_bits:.3g}" for m in (result.gaussian, result.lognormal)]
    encode = min(m.encode_seconds for m in result)
    decode = min(m.decode_seconds for m in result)
    cells = [
        *to_text(row),
        bits[0],
        errors[0],
        f"{errors[1]} @ {bits[1]}",
        kind(result.gaussian),
        f"{float(f'{(encode + decode) / copy:.2g}'):g}",
    ]
    return "| " + " | ".join(cells) + " |"


def to_text(row: Row) -> tuple[str, str, str]:
    """What a row says before anything is measured: the first cells of its line.

    >>> to_text(ROWS[0])[0]
    "**`to_dtype`** `to_dtype('bfloat16')`"
    """
    return f"**`{row.factory}`** `{row.expression}`", row.choose, row.source


HEADER = (
    "| factory, as measured | choose it for | source | bits | vNMSE, Gaussian | "
    "vNMSE @ bits, LogNormal | mean | cost |\n|---|---|---|---|---|---|---|---|"
)


def to_markdown(results: dict[str, Result], copy: float) -> str:
    """The tables of `fedjax_comp/compress/README.md`, one a room."""
    parts = []
    for room, rows in ROOMS.items():
        lines = [
            to_line(row, results[row.factory], copy)
            for row in rows
            if row.factory in results
        ]
        if lines:
            parts.append("\n".join([f"### {room}", "", HEADER, *lines]))
    return "\n\n".join(parts)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Expected no argument without a flag, got {argv[1]!r}.")
    sources = [make_source(name, FLAGS.side) for name in ("gaussian", "lognormal")]
    rows = [row for row in ROWS if not FLAGS.only or row.factory in FLAGS.only]
    if not rows:
        raise app.UsageError(f"Expected --only={FLAGS.only} to name a factory.")
    results: dict[str, Result] = {}
    copy = math.inf
    for row in rows:
        compressor: Compressor = build("compressor", row.expression)
        copy = min(copy, copy_seconds(sources[0].vectors[0]))
        results[row.factory] = Result(
            *(
                measure(compressor, source, jax.random.key(2), num_trials=FLAGS.trials)
                for source in sources
            )
        )
        jax.clear_caches()  # else the programs of all compressors stay in memory
        if not FLAGS.markdown:
            print(to_line(row, results[row.factory], copy), flush=True)
    if FLAGS.markdown:
        print(to_markdown(results, copy))
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(
        f"copy of the input: {1e6 * copy:.0f} us; jax {jax.__version__} on "
        f"{jax.default_backend()}, {os.cpu_count()} cores, load {load}",
        file=sys.stderr,
    )


if __name__ == "__main__":
    define_flags()
    app.run(main)
