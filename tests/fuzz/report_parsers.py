"""The report over any runs, whose files others may have written."""

import json

from fedjax_comp.report.compare_page import write_comparison
from fedjax_comp.report.found import find_runs
from fedjax_comp.report.groups import group_runs
from fedjax_comp.run_directory import FORMAT, RunDirectoryError
from tests.fuzz.mutations import mutate_json, mutate_json_lines
from tests.fuzz.parser import Parser, in_file, scratch_folder


def report() -> dict[str, Parser]:
    """A whole report of two runs, of which one has a changed file."""
    folder = scratch_folder("report")
    for name in ("runs", "runs/changed", "runs/whole"):
        (folder / name).mkdir(exist_ok=True)
    config = {
        "format": FORMAT,
        "experiment": "fed_avg",
        "flags": {"seed": 1, "uplink": "sign_sgd()", "num_rounds": 3},
        "seed": 1,
        "git_commit": None,
    }
    row = {"round": 1, "test_accuracy": 0.5, "test_loss": None, "seconds": 0.5}
    sent = {"uplink_bytes": 5, "downlink_bytes": 7, "joules": 2.5}
    summary = {"format": FORMAT, "failures": ["none"]}
    lines = 2 * (json.dumps({**row, **sent}).encode() + b"\n")
    texts = {
        "config.json": json.dumps(config).encode(),
        "metrics.jsonl": lines,
        "summary.json": json.dumps(summary).encode(),
    }

    def restore() -> None:
        for name, text in texts.items():
            for run in ("changed", "whole"):
                (folder / "runs" / run / name).write_bytes(text)

    def write() -> None:
        try:
            found = find_runs([folder / "runs"])
            grouping = group_runs(found.runs)
            write_comparison(
                folder / "page.html",
                grouping,
                found,
                reference=grouping.groups[0],
                target_accuracy=0.5,
            )
            for why in found.damaged:  # and the page was written
                raise RunDirectoryError(why)
        finally:
            restore()

    restore()
    return {
        f"report of {name}": Parser(
            text,
            in_file(folder / "runs" / "changed" / name, write),
            (RunDirectoryError,),
            mutate_json if name.endswith(".json") else mutate_json_lines,
        )
        for name, text in texts.items()
    }
