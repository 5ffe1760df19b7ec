"""Does running a run again give the messages that it logged?

`verify` shows that a log is what was signed, but not that the signed hashes are of
messages that this configuration gives. A run is deterministic in its configuration, so
whoever has it and the same environment can run it again and compare: the first entry
that differs is named, with its round and kind. Another environment (another version of
JAX, another number of devices) may round differently; how the environments differ is
reported first.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fedjax_comp.audit.configuration import ENVIRONMENT, config_sha256, read_config
from fedjax_comp.audit.entry import (
    EVALUATION,
    RESULT,
    Entry,
    describe,
    format_entry,
    parse_beginning,
    parse_entry,
)
from fedjax_comp.audit.log import FOLDER, LogError, read_log
from fedjax_comp.process import read_starts
from fedjax_comp.run_directory import RunDirectory

_WHEN = ("round", "at")
WHAT_DIFFERS = {
    "model": "the model before the round",
    "message": "the message",
}
"""Fields of entries that are about the same exchange, in the order they are told."""


class Replay(NamedTuple):
    """What running again gave.

    Attributes:
      entries: how many entries were compared, and found the same but for the last one
        if there is a difference.
      environment: how the two environments differ, a line each.
      remarks: what else is worth knowing, a line each.
      difference: the first difference; None when there is none.
    """

    entries: int
    environment: tuple[str, ...]
    remarks: tuple[str, ...]
    difference: str | None


def replay_run(run: Path, again: Callable[[], Path]) -> Replay:
    """Runs a run again and compares what both logged.

    Args:
      run: the run directory.
      again: runs its configuration again, with a log, and returns the new directory.

    Returns:
      The comparison. Nothing is run when the directory's configuration is not the one
      that its log began with.

    Raises:
      ValueError: when one of the two has no log or no configuration.
    """
    old, config = _entries(run), read_config(run / "config.json")
    if config_sha256(config) != parse_beginning(old[0]).config:
        changed = f"{run / 'config.json'} is not the one that the log began with."
        return Replay(1, (), (), changed)
    other = again()
    new = _entries(other)
    *_, now = surroundings_of(other)
    environment = dict.fromkeys(
        line
        for start in surroundings_of(run)
        for line in environment_differences(start, now)
    )
    remarks = []
    there, here = _parsed(old), _parsed(new)
    if any(entry.kind == RESULT for entry in there[:-1]):
        remarks.append(
            "the run had ended and went on for more rounds: its evaluations, which "
            "depend on where it ended, are not compared."
        )
        kinds = (RESULT, EVALUATION)
        there, here = ([x for x in one if x.kind not in kinds] for one in (there, here))
    count, difference = first_difference(there, here)
    return Replay(count + 1, tuple(environment), tuple(remarks), difference)


def first_difference(
    old: Sequence[Entry], new: Sequence[Entry]
) -> tuple[int, str | None]:
    """The first entry of a log that the run, run again, does not give.

    Args:
      old: the log's entries; a log without a result may go on.
      new: those of the run again.

    Returns:
      How many entries were looked at, and the difference in words.
    """
    for i, (there, here) in enumerate(zip(old, new, strict=False)):
        if there == here:
            continue
        where = _described(there)
        if there[:5] != here[:5]:
            return i + 1, f"{where} was logged, run again it is {_described(here)}."
        if there.kind == EVALUATION:
            return i + 1, f"{where}: the row differs."
        fields = [
            word
            for name, word in WHAT_DIFFERS.items()
            if getattr(there, name) != getattr(here, name)
        ]
        return i + 1, f"{where}: {' and '.join(fields)} differs."
    if len(old) > len(new):
        return len(new), f"{_described(old[len(new)])} is missing, run again."
    if len(new) > len(old) and old and old[-1].kind == RESULT:
        return len(old), f"{_described(new[len(old)])} follows, run again."
    return len(old), None


def surroundings_of(run: Path) -> list[dict[str, Any]]:
    """What each start of a run had around it: versions, commit and devices.

    Args:
      run: the run directory. Without `starts.jsonl` its configuration tells.
    """
    starts = read_starts(RunDirectory(run, {}, None)) or [
        {name: read_config(run / "config.json").get(name) for name in ENVIRONMENT}
    ]
    return [{n: x for n, x in one.items() if n not in _WHEN} for one in starts]


def environment_differences(
    old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = ""
) -> list[str]:
    """How what two runs ran in differs.

    Args:
      old: the surroundings of the one.
      new: those of the other.
      prefix: of the names in the lines.

    Returns:
      A line for each.

    >>> old, new = {"versions": {"jax": "1"}}, {"versions": {"jax": "2"}}
    >>> environment_differences(old, new)
    ["versions.jax: '1' there, '2' here"]
    """
    lines = []
    for name in sorted(set(old) | set(new)):
        there, here = old.get(name), new.get(name)
        if there == here:
            continue
        if isinstance(there, Mapping) and isinstance(here, Mapping):
            lines += environment_differences(there, here, f"{prefix}{name}.")
        else:
            lines.append(f"{prefix}{name}: {there!r} there, {here!r} here")
    return lines


def _entries(run: Path) -> list[bytes]:
    lines = read_log(run / FOLDER).lines
    if not lines:
        raise LogError(f"{run / FOLDER} has no entries.")
    parse_beginning(lines[0])
    return lines


def _parsed(lines: Sequence[bytes]) -> list[Entry]:
    # The configurations were compared, and their hashes cover the environment.
    return [parse_entry(line)._replace(config="") for line in lines[1:]]


def _described(entry: Entry) -> str:
    return describe(format_entry(entry))
