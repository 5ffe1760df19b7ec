"""Readers of a run's directory, of recordings and of what is known of devices."""

import contextlib
import io
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.adaptive.measure import as_ladder, measured_ladder
from fedjax_comp import process
from fedjax_comp.experiment.finish import print_summary, read_rows
from fedjax_comp.experiment.finished import COMPARED, MEASURED, check_finished
from fedjax_comp.experiment.measurements import read_measurements
from fedjax_comp.experiment.outcome import print_claims, settings_of
from fedjax_comp.network.devices import read_phones
from fedjax_comp.network.kept_costs import codecs_of, read_or_measure
from fedjax_comp.network.trace_files import (
    TraceError,
    parse_trace,
    read_trace_pairs,
    read_traces,
)
from fedjax_comp.network.traces import RateTrace, Trace, mean_rate
from fedjax_comp.run_directory import (
    FORMAT,
    RunDirectory,
    RunDirectoryError,
    find_run,
)
from tests.fuzz.mutations import (
    inside_gzip,
    mutate_json,
    mutate_json_lines,
    mutate_text,
)
from tests.fuzz.parser import Parser, in_file, in_text, scratch_folder, tar_gz


def _sound_trace(trace: Trace) -> Trace:
    assert math.isfinite(mean_rate(trace))
    assert mean_rate(trace) > 0
    assert np.isfinite(trace.seconds).all()
    assert (np.diff(trace.seconds) >= 0).all()
    if isinstance(trace, RateTrace):
        assert (np.diff(trace.seconds) > 0).all()
        assert (np.diff(trace.bits) >= 0).all()
    return trace


def network() -> dict[str, Parser]:
    folder = scratch_folder("network")
    rates = b"0.0 1.5\n1.0 0.25\n1.0 2\n2.5 3e-1\n"
    packets = b"0\n1\n1\n7\n20\n"
    archive = tar_gz({"a.up": rates, "a.down": packets})
    phones = [
        {"Model": "Google Pixel 4 ", "CPU_F_AI_Score": "40.5", "Year": "2019"},
        {"Model": "Other", "CPU_F_AI_Score": "n/a", "Year": "2016 (May)"},
    ]
    cost = {"flops": 1.0, "bytes": 2.0, "factor": 1.5}
    costs = {
        "format": FORMAT,
        "host": {},
        "links": {"uplink": [cost, cost]},
        "training_flops": 6.5,
    }
    rung = {"name": "r", "bits": 9, "error": 0.5, "encode": cost, "decode": cost}
    ladder = {"format": FORMAT, "num_parameters": 7, "rungs": [rung, rung]}

    def read_archive() -> None:
        path = folder / "traces.tar.gz"
        for trace in read_traces(path):
            _sound_trace(trace)
        for pair in read_trace_pairs(path, up_contains=".up", down_contains=".down"):
            assert len(pair) == 2

    def read_table() -> None:
        for device in read_phones(folder / "phones.json"):
            assert 0 < device.flops_per_second < math.inf

    def read_costs() -> None:
        codecs_of(read_or_measure(folder / "costs.json", {}, {}))

    def read_ladder() -> None:
        known = measured_ladder(folder / "ladder.json", (), {})
        if known["rungs"]:
            as_ladder(known, per_leaf=False)

    def trace(text: str) -> Trace:
        return _sound_trace(parse_trace(text))

    def as_json(value: object) -> bytes:
        return json.dumps(value).encode()

    invalid, refused = (ValueError,), (RunDirectoryError,)
    return {
        "rates": Parser(rates, in_text(trace), invalid, mutate_text),
        "packets": Parser(packets, in_text(trace), invalid, mutate_text),
        "traces": Parser(
            archive,
            in_file(folder / "traces.tar.gz", read_archive),
            (TraceError,),
            inside_gzip(mutate_text),
        ),
        "phones": Parser(
            as_json(phones),
            in_file(folder / "phones.json", read_table),
            invalid,
            mutate_json,
        ),
        "costs": Parser(
            as_json(costs),
            in_file(folder / "costs.json", read_costs),
            refused,
            mutate_json,
        ),
        "ladder": Parser(
            as_json(ladder),
            in_file(folder / "ladder.json", read_ladder),
            refused,
            mutate_json,
        ),
    }


def run_directory() -> dict[str, Parser]:
    folder = scratch_folder("run")
    config = {
        "format": FORMAT,
        "experiment": "fed_avg",
        "flags": {"seed": 1, "uplink": "identity()", "cohorts": [1, 2]},
        "seed": 1,
        "versions": {"jax": "0.10.2"},
        "git_commit": None,
    }
    row = {
        "round": 1,
        "test_accuracy": 0.5,
        "test_loss": None,
        "train_loss": 2.0,
        "uplink_bytes": 5,
        "downlink_bytes": 7,
        "seconds": 0.5,
    }
    run = {"name": "fed_avg", "test_accuracy": 0.5, "reason": ""}
    claim = {"name": "c", "target": 1, "measured": 0.5, "holds": True}
    summary = {
        "format": FORMAT,
        "test_accuracy": 0.5,
        "best_test_accuracy": 0.75,
        "rounds": 3,
        "uplink_bytes": 5,
        "downlink_bytes": 7,
        "dense_uplink_bytes": 50,
        "seconds_total": 1.5,
        "simulated_seconds": 2.5,
        "joules": None,
        "failures": ["none"],
        "runs": [run],
        "claims": [claim],
    }
    start = {"round": 0, "at": "now", "versions": {"jax": "1"}, "devices": 2}
    files = {"config.json": config, "summary.json": summary}
    texts = {name: json.dumps(value).encode() for name, value in files.items()}
    texts["metrics.jsonl"] = 2 * (json.dumps(row).encode() + b"\n")
    texts["rows.jsonl"] = 2 * (json.dumps({"name": "a", "x": 1}).encode() + b"\n")
    texts[process.STARTS] = 2 * (json.dumps(start).encode() + b"\n")

    def found() -> RunDirectory:
        flags = {"seed": 1, "uplink": "identity()", "cohorts": [1, 2]}
        return find_run(folder, "fed_avg", flags, growing=("seed",))

    def read_config() -> None:
        (folder / "summary.json").unlink(missing_ok=True)
        settings_of(found())

    def read_summary() -> None:
        (folder / "config.json").write_bytes(texts["config.json"])
        directory = found()
        print_summary(check_finished(directory, MEASURED), directory)
        compared = check_finished(directory, COMPARED)
        print_claims(compared["claims"])
        assert all(isinstance(run["name"], str) for run in compared["runs"])

    def read_measured() -> None:
        (folder / "metrics.jsonl").write_bytes((folder / "rows.jsonl").read_bytes())
        read_measurements(RunDirectory(folder, {}, None))

    def read_starts() -> None:
        for one in process.read_starts(RunDirectory(folder, {}, None)):
            assert isinstance(one["versions"], dict)

    reads = {
        "config.json": read_config,
        "summary.json": read_summary,
        "metrics.jsonl": lambda: read_rows(folder),
        "rows.jsonl": read_measured,
        process.STARTS: read_starts,
    }

    def quiet(read: Callable[[], Any]) -> Callable[[], Any]:
        def quietly() -> Any:
            with contextlib.redirect_stdout(io.StringIO()):
                return read()

        return quietly

    return {
        name: Parser(
            texts[name],
            in_file(folder / name, quiet(read)),
            (RunDirectoryError,),
            mutate_json if name.endswith(".json") else mutate_json_lines,
        )
        for name, read in reads.items()
    }
