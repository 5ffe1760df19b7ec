"""Measures every compressor on every source; a failure costs one row.

What a directory holds is not measured again: a killed command goes on where it was, and
one with further compressors or sources adds to the table.
"""

import itertools
import json
import math
import os
import zlib
from collections.abc import Sequence

import jax
from absl import flags

from experiments.rate_distortion.claims import best_gaps, make_claims
from experiments.rate_distortion.flags import QUICK, define
from experiments.rate_distortion.limits import gap_in_bits, least_error
from experiments.rate_distortion.measure import measure
from experiments.rate_distortion.plot import error_against_bits
from experiments.rate_distortion.sources import DRAWN, NAMES, Source, make_sources
from experiments.rate_distortion.table import SLOW_TRIALS, Entry, parse_entry
from fedjax_comp.experiment.expressions import build
from fedjax_comp.experiment.flags import apply_quick, as_dict
from fedjax_comp.experiment.main import UsageError, run_main
from fedjax_comp.experiment.table import to_csv
from fedjax_comp.keys import make_key
from fedjax_comp.report import Claim, Table, write_report
from fedjax_comp.run_directory import (
    Json,
    RunDirectory,
    open_run,
    write_json,
    write_text,
)

COLUMNS = (
    "compressor",
    "source",
    "rate_bits",
    "vnmse",
    "bias",
    "limit",
    "gap_bits",
    "encode_seconds",
    "decode_seconds",
    "n",
)
"""Of `table.csv`."""

DETAILS = (
    "compressor",
    "family",
    "source",
    "unbiased",
    "rate_bits",
    "nmse",
    "bias_noise",
    "bias_score",
    "pack_seconds",
    "messages",
    "written",
)
"""Of `details.csv`."""


def main(argv: Sequence[str] | None = None) -> None:
    """The command: parses flags, measures or resumes, writes the run directory."""

    def body(values: flags.FlagValues) -> None:
        apply_quick(values, **QUICK)
        run(values)

    run_main("rate_distortion", define(), body, argv)


def run(values: flags.FlagValues) -> Json:
    """Measures what the directory does not hold yet, then writes its results."""
    entries = [parse_entry(text) for text in values.compressor]
    expressions = [entry.expression for entry in entries]
    if len(set(expressions)) != len(expressions):
        raise UsageError("--compressor: the same expression is given twice.")
    settings = {
        name: value
        for name, value in as_dict(values).items()
        if name not in ("compressor", "source")
    }
    directory = open_run(values.workdir, "rate_distortion", settings)
    rows = read_rows(directory)
    done = {(row["compressor"], row["source"]) for row in rows}
    wanted = {
        (entry.expression, name)
        for entry, name in itertools.product(entries, values.source)
        if not (entry.matrices and name in DRAWN)
    }
    if directory.finished is not None and wanted <= done:
        print(f"{directory.path} has finished; nothing was changed.")
        return directory.finished
    sources = make_sources(values, directory.path / "updates")
    failures: list[Json] = []
    for entry in entries:
        for source in sources:
            pair = (entry.expression, source.name)
            if pair in done or (entry.matrices and source.name in DRAWN):
                continue
            try:
                row = measure_row(entry, source, values)
            except Exception as error:  # one compressor is not to lose the others
                if os.environ.get("FEDJAX_COMP_DEBUG"):
                    raise
                failures.append(failure(entry, source, error))
                print(f"{source.name}: {entry.expression}: {failures[-1]['reason']}")
                continue
            rows.append(row)
            with directory.metrics_path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            if values.progress:
                print(to_line(row), flush=True)
        jax.clear_caches()  # else the programs of all compressors stay in memory
    return finish(directory, rows, failures)


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


def read_rows(directory: RunDirectory) -> list[Json]:
    """The rows measured by earlier calls; half a last line is left out."""
    if not directory.metrics_path.exists():
        return []
    lines = directory.metrics_path.read_text(encoding="utf-8").split("\n")
    # What follows the last line break was being written when the run was killed.
    rows = [json.loads(line) for line in lines[:-1]]
    write_text(directory.metrics_path, "".join(json.dumps(r) + "\n" for r in rows))
    return rows


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


def failure(entry: Entry, source: Source, error: Exception) -> Json:
    """What is kept of a compressor that could not be measured."""
    return {
        "compressor": entry.expression,
        "source": source.name,
        "reason": " ".join(f"{type(error).__name__}: {error}".split()),
    }


def to_line(row: Json) -> str:
    """A row as one line for the terminal."""
    gap = "-" if row["gap_bits"] is None else f"{row['gap_bits']:.3f}"
    return (
        f"{row['source']:<17}{row['rate_bits']:8.4f} bits  vNMSE {row['vnmse']:<10.4g}"
        f" gap {gap:>7}  {row['compressor']}"
    )


def finish(
    directory: RunDirectory, rows: Sequence[Json], failures: Sequence[Json]
) -> Json:
    """Writes tables, figures, report and summary of all rows of a directory."""
    sources = [name for name in NAMES if any(row["source"] == name for row in rows)]
    families = list(dict.fromkeys(row["family"] for row in rows))
    rows = sorted(
        rows,
        key=lambda row: (
            sources.index(row["source"]),
            families.index(row["family"]),
            row["rate_bits"],
        ),
    )
    write_text(directory.path / "table.csv", to_csv(COLUMNS, rows))
    write_text(directory.path / "details.csv", to_csv(DETAILS, rows))
    summary: Json = {
        "experiment": "rate_distortion",
        "sources": sources,
        "measured": len(rows),
        "failures": list(failures),
        "best_gaps": best_gaps(rows),
        "claims": make_claims(rows, failures),
    }
    figures = error_against_bits(rows, directory.figures_path)
    report = write_report(
        directory.path / "report.html",
        title="Error of compressors against their bits, and the limit",
        summary={
            f"smallest gap near {rate}": best["gap_bits"]
            for rate, best in summary["best_gaps"].items()
        },
        settings={
            **directory.config["flags"],
            **directory.config["versions"],
            "git_commit": directory.config["git_commit"],
        },
        tables=[
            Table(
                source,
                [name for name in COLUMNS if name != "source"],
                [
                    [row[name] for name in COLUMNS if name != "source"]
                    for row in rows
                    if row["source"] == source
                ],
                "Limit and gap are those of the class, unbiased or not, that the "
                "compressor declares.",
            )
            for source in sources
        ]
        + failure_tables(failures),
        figures=figures,
        claims=[Claim(**claim) for claim in summary["claims"]],
    )
    # Last, since its presence is what says that the run has finished.
    write_json(directory.path / "summary.json", summary)
    print(f"table: {directory.path / 'table.csv'}\nreport: {report}")
    return summary


def failure_tables(failures: Sequence[Json]) -> list[Table]:
    """A table of what could not be measured, when there is any."""
    columns = ("compressor", "source", "reason")
    rows = [[one[name] for name in columns] for one in failures]
    return [Table("Not measured", columns, rows)] if rows else []
