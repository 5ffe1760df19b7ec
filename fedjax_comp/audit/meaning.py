"""Checks that a log's entries agree with each other and with the run directory.

It takes the entries as those that were signed, and checks whether they follow from one
another, and whether the configuration, the rows and the summary beside them are the
ones that they name.
"""

from collections.abc import Sequence
from pathlib import Path

from fedjax_comp import strict_json
from fedjax_comp.audit.configuration import config_sha256, origin_of, read_config
from fedjax_comp.audit.entry import (
    EVALUATION,
    RESULT,
    Entry,
    describe,
    parse_beginning,
    parse_entry,
    row_sha256,
)
from fedjax_comp.audit.note import Verifier

SUMMARY = "summary.json"


def meaning_faults(
    run: Path, lines: Sequence[bytes], origin: str, key: Verifier
) -> list[str]:
    """Whether entries, configuration, rows and summary fit together.

    Args:
      run: the run directory.
      lines: the log's lines, as they were signed.
      origin: the log's name in its last checkpoint.
      key: the log's key.

    Returns:
      What does not, a line each; at most one of every kind.
    """
    where = run / "config.json"
    try:
        beginning = parse_beginning(lines[0])
        if beginning.log != origin:
            return [f"the log of {origin} begins as that of {beginning.log}."]
        if origin != origin_of(key, origin.rpartition("/")[2]):
            return [f"{origin} is not a name of a log of this key."]
        read = read_config(where)
        config = config_sha256(read)
    except ValueError as error:
        return [str(error)]
    if config != beginning.config:
        return [f"{where} is not the one that was run: the log is {origin}."]
    # Written beside the flags to be found at a glance, and in no hash.
    seed = read.get("flags", {}).get("seed")
    if "seed" in read and read["seed"] != seed:
        return [f"{where} has the seed {read['seed']!r:.40}, --seed was {seed!r:.40}."]
    entries, faults = _chained(lines, config)
    if faults:
        return faults
    return [
        *_row_faults(run, entries),
        *_summary_faults(run, entries),
    ]


def _chained(lines: Sequence[bytes], config: str) -> tuple[list[Entry], list[str]]:
    """The entries behind the first line, each following from the one before it."""
    entries: list[Entry] = []
    round_index, model, ended = 0, "", False
    for i, line in enumerate(lines[1:], 1):
        where = f"entry {i} ({describe(line)})"
        try:
            entry = parse_entry(line)
        except ValueError as error:
            return entries, [f"entry {i}: {error}"]
        message = entry.kind not in (RESULT, EVALUATION)
        same_round = entry.round == round_index
        other_model = message and same_round and entry.model != model
        if entry.round < round_index or other_model or (same_round and ended):
            return entries, [f"{where} does not follow from the one before it."]
        if entry.config != config:
            return entries, [f"{where} belongs to another configuration."]
        round_index, ended = entry.round, entry.kind == RESULT
        model = entry.model if message else model
        entries.append(entry)
    return entries, []


def _row_faults(run: Path, entries: Sequence[Entry]) -> list[str]:
    """Whether `metrics.jsonl` has the rows that were logged, in their order.

    A run that has not finished may have logged rows that it will make again, and have
    rows that it has not logged yet: then what both have is compared. Behind a result
    no row is missing; without a summary it may go on, with rows not logged yet.
    """
    path = run / "metrics.jsonl"
    logged = [entry for entry in entries if entry.kind == EVALUATION]
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    summarised = (run / SUMMARY).exists()
    finished = summarised or (bool(entries) and entries[-1].kind == RESULT)
    rows = text.split("\n")
    if not rows[-1] or not finished:
        rows.pop()  # nothing, or what a kill cut short
    for i, (entry, line) in enumerate(zip(logged, rows, strict=False)):
        if _row_hash(line) != entry.message:
            return [
                f"row {i} of {path} is not the one logged after round {entry.round}."
            ]
    missing, more = len(rows) < len(logged), len(rows) > len(logged)
    if (finished and missing) or (summarised and more):
        return [f"{path} has {len(rows)} rows, {len(logged)} were logged."]
    return []


def _row_hash(line: str) -> str:
    try:
        row = strict_json.parse(line)
        return row_sha256(row) if isinstance(row, dict) else ""
    except (ValueError, RecursionError):
        return ""


def _summary_faults(run: Path, entries: Sequence[Entry]) -> list[str]:
    """Whether `summary.json` says what was logged of its parameters and its rows."""
    path = run / SUMMARY
    if not path.exists():
        return []
    if not entries or entries[-1].kind != RESULT:
        return ["the run has finished, but the log does not end with its result."]
    result = entries[-1]
    try:
        summary = strict_json.parse(path.read_text(encoding="utf-8"))
        said = summary["params_sha256"], summary["rounds"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [f"{path} cannot be read: {error!r}."]
    if said != (result.message, result.round):
        fault = (
            f"{path} has parameters {said[0]} after {said[1]} rounds, the log "
            f"{result.message} after {result.round}."
        )
        return [fault]
    known = _known(run / "metrics.jsonl")
    runs = summary.get("runs", [])
    if not isinstance(runs, list) or not all(isinstance(one, dict) for one in runs):
        return [f"{path} cannot be read: its runs are no objects."]
    tables = [summary, *runs[:1]]
    return [
        f"{path} has {name} {table[name]!r:.40}, the logged rows say {value!r:.40}."
        for table in tables
        for name, value in known.items()
        if name in table and table[name] != value
    ][:1]


def _known(path: Path) -> dict[str, object]:
    """What follows from the rows, which were held against the log, of a summary."""
    try:
        rows = [
            strict_json.parse(line)
            for line in path.read_text(encoding="utf-8").split("\n")
            if line
        ]
    except (OSError, ValueError):
        return {}  # that is a fault of the rows
    if not rows or not all(isinstance(row, dict) for row in rows):
        return {}
    last = {name: x for name, x in rows[-1].items() if name not in ("round", "seconds")}
    accuracies = [row.get("test_accuracy") for row in rows]
    if all(isinstance(x, int | float) for x in accuracies):
        last["best_test_accuracy"] = max(accuracies)
    sent = last.get("uplink_bytes"), last.get("downlink_bytes")
    if all(isinstance(x, int | float) for x in sent):
        last["total_bytes"] = sum(sent)
    return last
