"""Verification of a run directory: is its log what was signed, and only that?

Two things are compared with the signed checkpoints: the entries, hashed afresh, and the
stored hashes. Where the stored hashes are those that were signed, they show which entry
was changed. Where they were changed as well, the checkpoints before and after the
change bound where it is. What the entries mean is then compared with the rest of the
run directory (`fedjax_comp.audit.meaning`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fedjax_comp.audit.checkpoint import (
    Checkpoint,
    read_checkpoint,
    verify_checkpoint,
    verify_cosignature,
)
from fedjax_comp.audit.differences import first_difference
from fedjax_comp.audit.entry import RESULT, describe, parse_entry
from fedjax_comp.audit.log import COSIGNED, FOLDER, Stored, is_whole, read_log
from fedjax_comp.audit.meaning import SUMMARY, meaning_faults
from fedjax_comp.audit.merkle import CompactRange, extend, leaf_hash, root_of
from fedjax_comp.audit.note import NoteError, Verifier, parse_note


class Report(NamedTuple):
    """What a verification found.

    Attributes:
      origin: the log's name; empty when no checkpoint is signed.
      entries: how many entries the log has.
      signed: how many of them the last checkpoint covers.
      faults: what is not as it was signed, a line each; none when all is well.
      remarks: what is worth knowing but no fault, a line each.
    """

    origin: str
    entries: int
    signed: int
    faults: tuple[str, ...]
    remarks: tuple[str, ...]


def verify_run(
    run: Path,
    key: Verifier,
    *,
    witnesses: Sequence[Verifier] = (),
    notes: Sequence[str] = (),
) -> Report:
    """Verifies a run directory.

    Args:
      run: the run directory.
      key: the log's key, from elsewhere than this directory.
      witnesses: keys of the witnesses that must have cosigned the last checkpoint.
      notes: checkpoints of this key's logs that others have, as signed notes; those of
        its other logs are reported.

    Returns:
      The report.

    Raises:
      LogError: when there is no log at all.
    """
    has_summary = (run / SUMMARY).exists()  # before the log, which it follows
    stored = read_log(run / FOLDER)
    notes_end = stored.notes[-1:]
    cut_short = not has_summary and not all(map(is_whole, notes_end))
    if cut_short:
        stored = stored._replace(notes=stored.notes[:-1])
    leaves = [leaf_hash(line) for line in stored.lines]
    checkpoints, faults = _signed_checkpoints(stored, key)
    signed = checkpoints[-1].size if checkpoints else 0
    has_result = _has_result(stored.lines)
    finished = has_summary or has_result
    faults += _history_faults(stored, leaves, checkpoints, has_summary)
    if not faults:
        faults += meaning_faults(run, stored.lines, checkpoints[-1].origin, key)
    origin = checkpoints[-1].origin if checkpoints else ""
    cosigned, torn = _outside(stored.cosigned, key, f"{run / FOLDER / COSIGNED}, note")
    others, damaged = _outside(notes, key, "a checkpoint from outside, note")
    outside = [*cosigned, *others]
    faults += torn + damaged
    if origin:
        faults += _outside_faults(leaves, origin, outside)
    if notes and outside and all(x.origin != origin for x in outside):
        faults.append(f"none of the checkpoints from outside is of {origin}.")
    faults += _witness_faults(stored, leaves, checkpoints, key, witnesses)
    remarks = _remarks(stored, signed, finished, witnesses, notes)
    if cut_short:
        remarks.append("the last checkpoint is not whole; opening the log removes it.")
    if has_result and not has_summary:
        remarks.append(
            f"the log ends with a result, and there is no {SUMMARY}: it was removed, "
            "or the run goes on, or was stopped before it was written."
        )
    return Report(
        origin=origin,
        entries=len(leaves),
        signed=signed,
        faults=tuple(faults),
        remarks=(*remarks, *_other_logs(origin, outside)),
    )


def _signed_checkpoints(
    stored: Stored, key: Verifier
) -> tuple[list[Checkpoint], list[str]]:
    checkpoints: list[Checkpoint] = []
    for i, note in enumerate(stored.notes):
        try:
            checkpoint = read_checkpoint(note, key)
        except NoteError as error:
            return checkpoints, [f"checkpoint {i}: {error}"]
        if checkpoints and checkpoint.size <= checkpoints[-1].size:
            fault = (
                f"checkpoint {i}: {checkpoint.size} entries come after "
                f"{checkpoints[-1].size}: the log's key signed two histories."
            )
            return checkpoints, [fault]
        checkpoints.append(checkpoint)
    return checkpoints, [] if checkpoints else ["no checkpoint is signed by this key."]


def _history_faults(
    stored: Stored,
    leaves: list[bytes],
    checkpoints: list[Checkpoint],
    has_summary: bool,
) -> list[str]:
    """How entries and stored hashes differ from what was signed.

    A run writes its summary last: what is not signed by then was added.
    """
    if not checkpoints:
        return []
    signed = checkpoints[-1].size
    sound = _sound_prefix(leaves, checkpoints)
    named = _sound_prefix(stored.hashes, checkpoints)
    if sound < signed and named <= sound:
        return [_bounded(stored.lines, sound, checkpoints)]
    if sound < signed:
        difference = first_difference(leaves, stored.hashes[:named])
        where, what = difference if difference is not None else (named, "altered")
        return [f"{_entry(stored.lines, where)} was {what}."]
    if has_summary and (len(leaves) > signed or stored.torn):
        return [f"{_entry(stored.lines, signed)} was inserted after the last one."]
    difference = first_difference(stored.hashes, leaves)
    short = difference is not None and difference.position == len(stored.hashes)
    if difference is None or (short and difference.position >= signed):
        return []
    return [
        f"hash {difference.position} in the stored hashes is not that of its entry."
    ]


def _sound_prefix(leaves: list[bytes], checkpoints: list[Checkpoint]) -> int:
    """How many leaves are covered by checkpoints that all have the right root."""
    tree = CompactRange()
    for checkpoint in checkpoints:
        grown = extend(tree, leaves[tree.size : checkpoint.size])
        if (grown.size, root_of(grown)) != checkpoint[1:]:
            break
        tree = grown
    return tree.size


def _bounded(lines: list[bytes], sound: int, checkpoints: list[Checkpoint]) -> str:
    end = next(x.size for x in checkpoints if x.size > sound)
    last = min(end, len(lines)) - 1
    where = f" ({describe(lines[sound])} on)" if sound < len(lines) else ""
    if last < sound:
        return f"entry {sound} was removed, and all behind it."
    return (
        f"between entries {sound} and {end - 1}{where} the first one was altered, "
        "removed, reordered or inserted; the stored hashes, which would tell which, "
        "are not those signed either."
    )


def _entry(lines: list[bytes], index: int) -> str:
    if index >= len(lines):
        return f"entry {index}, behind the last one there,"
    return f"entry {index} ({describe(lines[index])})"


def _has_result(lines: list[bytes]) -> bool:
    try:
        return bool(lines) and parse_entry(lines[-1]).kind == RESULT
    except ValueError:
        return False


def _outside(
    notes: Sequence[str], key: Verifier, where: str
) -> tuple[list[Checkpoint], list[str]]:
    """The checkpoints that others have, and what is wrong with those that are none."""
    checkpoints, faults = [], []
    for i, text in enumerate(notes):
        try:
            checkpoints.append(verify_checkpoint(parse_note(text), key))
        except NoteError as error:
            faults.append(f"{where} {i}: {error}")
    return checkpoints, faults


def _outside_faults(
    leaves: list[bytes], origin: str, outside: list[Checkpoint]
) -> list[str]:
    """Whether checkpoints that others have of this log are of this history."""
    faults = []
    for other in outside:
        if other.origin != origin:
            continue
        if other.size > len(leaves):
            faults.append(
                f"somebody has a checkpoint of {other.size} entries, here are "
                f"{len(leaves)}: entries were removed from the end."
            )
        elif root_of(extend(CompactRange(), leaves[: other.size])) != other.root:
            faults.append(
                f"SPLIT HISTORY: the log's key signed another tree of {other.size} "
                "entries than the one here."
            )
    return faults


def _other_logs(origin: str, outside: list[Checkpoint]) -> list[str]:
    """All logs of this key that others know of, but for this one."""
    sizes: dict[str, int] = {}
    for other in outside:
        if other.origin != origin:
            sizes[other.origin] = max(other.size, sizes.get(other.origin, 0))
    return [
        f"this key also signed {name}, of {size} entries."
        for name, size in sorted(sizes.items())
    ]


def _witness_faults(
    stored: Stored,
    leaves: list[bytes],
    checkpoints: list[Checkpoint],
    key: Verifier,
    witnesses: Sequence[Verifier],
) -> list[str]:
    if not checkpoints:
        return []
    origin, signed, _ = checkpoints[-1]
    faults = []
    for witness in witnesses:
        covered = _cosigned(stored, leaves, origin, key, witness)
        if covered < signed:
            faults.append(f"{witness.name} has cosigned {covered} of {signed} entries.")
    return faults


def _cosigned(
    stored: Stored, leaves: list[bytes], origin: str, key: Verifier, witness: Verifier
) -> int:
    """How many entries the largest checkpoint of this log that it cosigned covers."""
    covered = 0
    for text in stored.cosigned:
        try:
            note = parse_note(text)
            verify_cosignature(note, witness)
            checkpoint = verify_checkpoint(note, key)
        except NoteError:
            continue
        tree = extend(CompactRange(), leaves[: checkpoint.size])
        # A witness cosigns all logs of a key: another's note says nothing of this one.
        if checkpoint == (origin, tree.size, root_of(tree)):
            covered = max(covered, checkpoint.size)
    return covered


def _remarks(
    stored: Stored,
    signed: int,
    finished: bool,
    witnesses: Sequence[Verifier],
    notes: Sequence[str],
) -> list[str]:
    remarks = []
    if not finished:
        remarks.append("the run has not finished: its log may still grow.")
    if len(stored.lines) > signed:
        remarks.append(
            f"{len(stored.lines) - signed} entries behind the last checkpoint are not "
            "signed yet."
        )
    if stored.torn:
        remarks.append("the last line is not whole; opening the log removes it.")
    if not witnesses:
        remarks.append(
            "no witness was asked for (--witness_key): a second history, or an earlier "
            "state of this one, would not be noticed."
        )
    elif not notes:
        remarks.append(
            "no list of a witness was given (--against): this log put back to an "
            "earlier state that was cosigned would not be noticed."
        )
    return remarks
