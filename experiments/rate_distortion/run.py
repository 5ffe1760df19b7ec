"""Measures every compressor on every source; a failure costs one row.

What a directory already holds is not measured again: a killed command goes on where it
was, and a command with further compressors or sources adds to the table.
"""

import functools
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
from absl import flags

from experiments.rate_distortion.claims import best_gaps, make_claims
from experiments.rate_distortion.flags import QUICK, define
from experiments.rate_distortion.limits import gap_in_bits, least_error
from experiments.rate_distortion.measure import measure
from experiments.rate_distortion.models import ERRORS, MODELS, bits_of
from experiments.rate_distortion.models import measured as measured_limit
from experiments.rate_distortion.peers import PEER_FLAGS, Peer, given, measure_peer
from experiments.rate_distortion.plot import error_against_bits
from experiments.rate_distortion.sources import (
    DRAWN,
    NAMES,
    RECORDED,
    Source,
    kept_path,
    make_source,
    source_names,
)
from experiments.rate_distortion.table import SLOW_TRIALS, Entry, parse_entry
from fedjax_comp import tree as trees
from fedjax_comp.experiment.expressions import build
from fedjax_comp.experiment.main import UsageError
from fedjax_comp.experiment.measurements import Measured, Measurements
from fedjax_comp.keys import make_key
from fedjax_comp.run_directory import Json

COLUMNS = (
    "compressor",
    "family",
    "source",
    "unbiased",
    "rate_bits",
    "vnmse",
    "vnmse_rescaled",
    "bias",
    "limit",
    "gap_bits",
    "encode_seconds",
    "decode_seconds",
    "pack_seconds",
    "nmse",
    "bias_noise",
    "bias_score",
    "messages",
    "written",
    "n",
)
"""Of `table.csv`."""


def make_jobs(values: flags.FlagValues) -> Mapping[str, Callable[[], Json]]:
    """Every compressor on every source that it can be sent on, by its name."""
    entries = [parse_entry(text) for text in values.compressor]
    if len({entry.expression for entry in entries}) != len(entries):
        raise UsageError("--compressor: the same expression is given twice.")
    folder = Path(values.workdir) / "updates"
    names = source_names(values, folder)

    @functools.cache
    def source(name: str) -> Source:
        return make_source(name, values, folder)

    def measure_on(name: str, entry: Entry) -> Json:
        if name == names[0]:
            jax.clear_caches()  # else the programs of all compressors stay in memory
        return measure_row(entry, source(name), values)

    jobs: dict[str, Callable[[], Json]] = {
        f"{name}: {entry.expression}": functools.partial(measure_on, name, entry)
        for entry in entries
        for name in names
        if not (entry.matrices and name in DRAWN)
    }
    recorded = [name for name in names if name in RECORDED]
    jobs |= limit_jobs(recorded, source)
    for peer, command in given(values):
        jobs |= peer_jobs(peer, command, values, recorded, folder, source)
    return jobs


def limit_jobs(
    names: Sequence[str], source: Callable[[str], Source]
) -> dict[str, Callable[[], Json]]:
    """The limits of models of every recorded source, a row at each error."""

    @functools.cache
    def bits(name: str, model: str) -> dict[float, float]:
        vectors = source(name).vectors
        return bits_of(model, [jax.tree.leaves(vector) for vector in vectors])

    def row(name: str, model: str, error: float, entry: Entry) -> Json:
        rate, vectors = bits(name, model)[error], source(name).vectors
        n = trees.size(vectors[0])
        return to_row(entry, source(name), measured_limit(error, rate, n, len(vectors)))

    jobs: dict[str, Callable[[], Json]] = {}
    for model in MODELS:
        for error in ERRORS:
            expression = f"limit of {model} at {error:g}"
            entry = Entry(f"limit of {model}", expression, unbiased=False)
            for name in names:
                jobs[f"{name}: {expression}"] = functools.partial(
                    row, name, model, error, entry
                )
    return jobs


def peer_jobs(
    peer: Peer,
    command: Sequence[str],
    values: flags.FlagValues,
    names: Sequence[str],
    folder: Path,
    source: Callable[[str], Source],
) -> dict[str, Callable[[], Json]]:
    """A peer on every recorded source, all settings of one in a single call of it."""

    @functools.cache
    def measured(name: str) -> list[Json] | ChildProcessError:
        source(name)  # is recorded in its file
        path = kept_path(name, folder)
        try:
            return measure_peer(peer, command, path, values.num_clients)
        except ChildProcessError as error:
            return error  # kept, so that no further row waits for another

    def row(name: str, index: int) -> Json:
        rows = measured(name)
        if isinstance(rows, ChildProcessError):
            raise rows
        return to_row(peer.entries[index][0], source(name), rows[index])

    return {
        f"{name}: {entry.expression}": functools.partial(row, name, index)
        for name in names
        for index, (entry, _) in enumerate(peer.entries)
    }


def measure_row(entry: Entry, source: Source, values: flags.FlagValues) -> Json:
    """Measures one compressor on one source."""
    num_trials = values.num_trials if source.name in DRAWN else values.num_update_trials
    if entry.slow:
        num_trials = min(num_trials, SLOW_TRIALS)
    # The same draws whatever else is measured.
    key = jax.random.fold_in(
        make_key(values.seed), zlib.crc32(entry.expression.encode())
    )
    compressor = build("compressor", entry.expression)
    measured = measure(compressor, source, key, num_trials=num_trials)
    return to_row(entry, source, measured._asdict())


def to_row(entry: Entry, source: Source, measured: Json) -> Json:
    """A row of `metrics.jsonl`: everything known of one compressor on one source."""
    rate, vnmse = measured["rate_bits"], measured["vnmse"]
    row = {
        "compressor": entry.expression,
        "family": entry.family,
        "source": source.name,
        "unbiased": entry.unbiased,
        **measured,
        "limit": least_error(rate, unbiased=entry.unbiased),
        "gap_bits": gap_in_bits(rate, vnmse, unbiased=entry.unbiased),
    }
    # JSON has no word for what is not a number.
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }


def in_order(measurements: Sequence[Json]) -> list[Json]:
    """The rows of the table: by source, family and rate."""
    families = list(dict.fromkeys(row["family"] for row in measurements))
    return sorted(
        measurements,
        key=lambda row: (
            NAMES.index(row["source"]),
            families.index(row["family"]),
            row["rate_bits"],
        ),
    )


def facts(measured: Measured) -> Json:
    """What the summary holds beside rows and claims."""
    return {
        "sources": list(dict.fromkeys(row["source"] for row in measured.rows)),
        "best_gaps": best_gaps(measured.rows),
    }


def to_line(row: Json) -> str:
    """A row as one line for the terminal."""
    gap = "-" if row["gap_bits"] is None else f"{row['gap_bits']:.3f}"
    return (
        f"{row['source']:<17}{row['rate_bits']:8.4f} bits  vNMSE {row['vnmse']:<10.4g}"
        f" gap {gap:>7}  {row['compressor']}"
    )


MEASUREMENTS = Measurements(
    name="rate_distortion",
    define=define,
    quick=QUICK,
    repeated=("compressor", "source", *PEER_FLAGS),
    jobs=make_jobs,
    summarise=in_order,
    columns=COLUMNS,
    claims=lambda measured: make_claims(measured.rows),
    facts=facts,
    figures=lambda measured: error_against_bits(measured.rows, measured.figures_path),
    title=lambda values: "Error of compressors against their bits, and the limit",
    headlines=lambda rows: {
        f"smallest gap near {rate}": best["gap_bits"]
        for rate, best in best_gaps(rows).items()
    },
    note="Limit and gap are those of the class, unbiased or not, that the compressor "
    "declares.",
    show=to_line,
)
main = MEASUREMENTS.main
