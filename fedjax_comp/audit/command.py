"""The command line of the log: verify, prove, witness, keygen.

Exit codes: 0 when all is well, 1 when something is not as it was signed, 2 for a
mistake in the command.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from fedjax_comp.audit.checkpoint import verify_checkpoint, verify_cosignature
from fedjax_comp.audit.keys import load_signer, load_verifier, make_key
from fedjax_comp.audit.log import (
    COSIGNED,
    FOLDER,
    LOG,
    PUBLIC_KEY,
    LogError,
    Stored,
    read_log,
)
from fedjax_comp.audit.merkle import leaf_hash
from fedjax_comp.audit.note import (
    COSIGNATURE,
    ED25519,
    Note,
    NoteError,
    Verifier,
    format_note,
    format_verifier,
    parse_note,
    split_notes,
)
from fedjax_comp.audit.proof import (
    format_inclusion,
    format_request,
    make_request,
    parse_inclusion,
    parse_request,
    prove_inclusion,
    verify_entry,
)
from fedjax_comp.audit.verify import verify_run
from fedjax_comp.audit.witness import SplitHistory, Witness

PROGRAM = "python -m fedjax_comp.audit"
FINE, FAILED, MISTAKE = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one of the four commands.

    Args:
      argv: the arguments; those of the process when None.

    Returns:
      The exit code.
    """
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as stop:
        return MISTAKE if stop.code else FINE
    try:
        return int(arguments.command(arguments))
    except SplitHistory as error:
        print(f"REFUSED: {error}", file=sys.stderr)
        return FAILED
    except (LogError, NoteError, OSError, ValueError) as error:
        line = " ".join(str(error).split())
        print(f"{arguments.name}: {line}", file=sys.stderr)
        return MISTAKE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__)
    commands = parser.add_subparsers(dest="name", required=True)

    verify = commands.add_parser("verify", help="verify a run directory, or a proof")
    verify.add_argument("run", nargs="?", help="the run directory")
    verify.add_argument("--key", help="the log's key, or a file that holds it")
    verify.add_argument(
        "--witness_key", action="append", default=[], help="a witness that must agree"
    )
    verify.add_argument(
        "--against",
        action="append",
        default=[],
        help="a file of checkpoints that someone else has of this log",
    )
    verify.add_argument("--proof", help="a proof by `prove --entry`, without the run")
    verify.add_argument("--entry", help="with --proof: a file with the entry's line")
    verify.set_defaults(command=_verify)

    prove = commands.add_parser("prove", help="prove an entry, or that a log has grown")
    prove.add_argument("run", help="the run directory")
    what = prove.add_mutually_exclusive_group(required=True)
    what.add_argument("--entry", type=int, help="that this entry is in the log")
    what.add_argument("--old_size", type=int, help="that the log extends this size")
    prove.set_defaults(command=_prove)

    witness = commands.add_parser("witness", help="cosign what extends the last one")
    witness.add_argument("run", nargs="?", help="the run directory")
    witness.add_argument("--request", help="a text by `prove --old_size` ('-': stdin)")
    witness.add_argument("--key", required=True, help="file of the witness's key")
    witness.add_argument("--log_key", required=True, help="the log's key, or its file")
    witness.add_argument("--state", required=True, help="the witness's own folder")
    witness.set_defaults(command=_witness)

    keygen = commands.add_parser("keygen", help="make a key for a log or a witness")
    keygen.add_argument("path", help="file of the private key; PATH.pub is the public")
    keygen.add_argument("--key_name", required=True, help="e.g. example.com/log")
    keygen.add_argument("--witness", action="store_true", help="a witness's key")
    keygen.set_defaults(command=_keygen)
    return parser


def _verify(arguments: argparse.Namespace) -> int:
    if arguments.proof is not None:
        return _verify_proof(arguments)
    if arguments.run is None:
        raise ValueError("give a run directory, or --proof with --entry and --key.")
    run = Path(arguments.run)
    if not (run / "config.json").exists() and not (run / FOLDER).exists():
        raise ValueError(f"{run} is no run directory.")
    if not (run / FOLDER / LOG).exists():
        print(f"FAULT: {run / FOLDER / LOG} is missing.")
        return FAILED
    key = _log_key(run, arguments.key)
    report = verify_run(
        run,
        key,
        witnesses=[load_verifier(text) for text in arguments.witness_key],
        notes=[note for path in arguments.against for note in _notes(Path(path))],
    )
    for remark in report.remarks:
        print(f"note: {remark}")
    for fault in report.faults:
        print(f"FAULT: {fault}")
    if report.faults:
        return FAILED
    print(f"fine: {report.signed} of {report.entries} entries are as they were signed.")
    return FINE


def _verify_proof(arguments: argparse.Namespace) -> int:
    if arguments.entry is None or arguments.key is None:
        raise ValueError("--proof needs --entry=FILE and --key.")
    line = Path(arguments.entry).read_bytes().removesuffix(b"\n")
    key = load_verifier(arguments.key)
    witnesses = [load_verifier(text) for text in arguments.witness_key]
    try:
        proof = parse_inclusion(Path(arguments.proof).read_text(encoding="utf-8"))
        checkpoint = verify_entry(proof, line, key)
        for witness in witnesses:
            verify_cosignature(proof.note, witness)
    except NoteError as error:
        print(f"FAULT: {error}")
        return FAILED
    print(f"fine: entry {proof.position} of {checkpoint.size} of {checkpoint.origin}.")
    return FINE


def _prove(arguments: argparse.Namespace) -> int:
    stored = read_log(Path(arguments.run) / FOLDER)
    note = _last_note(stored)
    leaves = _covered(stored, note)
    if arguments.entry is not None:
        text = format_inclusion(prove_inclusion(leaves, arguments.entry, note))
    else:
        text = format_request(make_request(leaves, arguments.old_size, note))
    sys.stdout.write(text)
    return FINE


def _witness(arguments: argparse.Namespace) -> int:
    if (arguments.run is None) == (arguments.request is None):
        raise ValueError("give a run directory or --request, one of them.")
    log_key = load_verifier(arguments.log_key)
    witness = Witness(Path(arguments.state), load_signer(Path(arguments.key)), log_key)
    now = int(time.time())
    if arguments.request is not None:
        from_stdin = arguments.request == "-"
        text = (
            sys.stdin.read()
            if from_stdin
            else Path(arguments.request).read_text(encoding="utf-8")
        )
        sys.stdout.write(
            format_note(witness.add(parse_request(text), time_seconds=now))
        )
        return FINE
    folder = Path(arguments.run) / FOLDER
    stored = read_log(folder)
    note = _last_note(stored)
    checkpoint = verify_checkpoint(note, log_key)
    last = witness.last(checkpoint.origin)
    leaves = _covered(stored, note)
    request = make_request(leaves, min(last.size, len(leaves)), note)
    cosigned = witness.add(request, time_seconds=now)
    with (folder / COSIGNED).open("a", encoding="utf-8") as file:
        file.write(format_note(cosigned))
        file.flush()
        os.fsync(file.fileno())
    print(f"cosigned: {checkpoint.size} entries, {last.size} of them seen before.")
    return FINE


def _keygen(arguments: argparse.Namespace) -> int:
    kind = COSIGNATURE if arguments.witness else ED25519
    signer = make_key(Path(arguments.path), arguments.key_name, kind=kind)
    print(format_verifier(signer.verifier))
    return FINE


def _log_key(run: Path, text: str | None) -> Verifier:
    if text is not None:
        return load_verifier(text)
    print(
        "note: no --key: the key is the directory's own, so this finds accidents, not "
        "somebody who signed it all again."
    )
    return load_verifier(str(run / FOLDER / PUBLIC_KEY))


def _notes(path: Path) -> list[str]:
    return split_notes(path.read_text(encoding="utf-8"))


def _last_note(stored: Stored) -> Note:
    if not stored.notes:
        raise LogError("The log has no checkpoint yet.")
    return parse_note(stored.notes[-1])


def _covered(stored: Stored, note: Note) -> list[bytes]:
    size = int(note.text.split("\n")[1])
    return [leaf_hash(line) for line in stored.lines[:size]]
