"""The command line of the log: verify, replay, prove, witness, keygen.

Exit codes: 0 when all is well, 1 when something is not as it was signed, 2 for a
mistake in the command.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from fedjax_comp.audit.checkpoint import (
    parse_checkpoint,
    verify_checkpoint,
    verify_cosignature,
)
from fedjax_comp.audit.keys import load_signer, load_verifier, make_key
from fedjax_comp.audit.log import (
    FOLDER,
    LOG,
    PUBLIC_KEY,
    LogError,
    Stored,
    add_cosigned,
    read_log,
)
from fedjax_comp.audit.merkle import leaf_hash
from fedjax_comp.audit.note import (
    COSIGNATURE,
    ED25519,
    Note,
    NoteError,
    Signature,
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
from fedjax_comp.audit.replay import replay_run
from fedjax_comp.audit.verify import verify_run
from fedjax_comp.audit.witness import SplitHistory, Witness
from fedjax_comp.extras import MissingExtra

PROGRAM = "python -m fedjax_comp.audit"
FINE, FAILED, MISTAKE = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one of the five commands.

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
    except (LogError, MissingExtra, NoteError, OSError, ValueError) as error:
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
        help="a file of checkpoints that someone else has of the key's logs, such as "
        "the output of `witness --list`",
    )
    verify.add_argument("--proof", help="a proof by `prove --entry`, without the run")
    verify.add_argument("--entry", help="with --proof: a file with the entry's line")
    verify.set_defaults(command=_verify)

    replay = commands.add_parser("replay", help="run again and compare the messages")
    replay.add_argument("run", help="the run directory")
    replay.add_argument("--into", help="keep the new run directory here")
    replay.add_argument("--module", help="that builds it, e.g. experiments.fed_avg.run")
    replay.add_argument("--data_dir", help="where prepared data lies now")
    replay.add_argument("--raw_dir", help="where raw files lie now")
    replay.set_defaults(command=_replay)

    prove = commands.add_parser("prove", help="prove an entry, or that a log has grown")
    prove.add_argument("run", help="the run directory")
    what = prove.add_mutually_exclusive_group(required=True)
    what.add_argument("--entry", type=int, help="that this entry is in the log")
    what.add_argument("--old_size", type=int, help="that the log extends this size")
    prove.set_defaults(command=_prove)

    witness = commands.add_parser("witness", help="cosign what extends the last one")
    witness.add_argument("run", nargs="?", help="the run directory")
    witness.add_argument("--request", help="a text by `prove --old_size` ('-': stdin)")
    witness.add_argument(
        "--list", action="store_true", help="print the last note of each of its logs"
    )
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
        if arguments.run is not None or arguments.against:
            raise ValueError(
                "a proof is verified by itself: give --proof, or a run directory and "
                "--against, not both."
            )
        return _verify_proof(arguments)
    if arguments.entry is not None:
        raise ValueError("--entry is of a --proof: give both, or none.")
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
    print(
        f"fine: {report.signed} of {report.entries} entries of {report.origin} are as "
        "they were signed."
    )
    return FINE


def _replay(arguments: argparse.Namespace) -> int:
    run = Path(arguments.run)
    with tempfile.TemporaryDirectory(prefix="replay-") as folder:
        into = Path(arguments.into or Path(folder) / "run")
        if (into / FOLDER).exists():
            raise ValueError(f"{into} holds a log; give a new directory.")
        done = replay_run(run, lambda: _run_again(run, into, arguments))
    for line in done.environment:
        print(f"note: another environment: {line}.")
    for remark in done.remarks:
        print(f"note: {remark}")
    if done.difference is not None:
        print(f"FAULT: {done.difference}")
        return FAILED
    print(f"fine: {done.entries} entries are what the run gives when it is run again.")
    return FINE


def _run_again(run: Path, into: Path, arguments: argparse.Namespace) -> Path:
    """In a process of its own, which chooses its devices as an experiment does."""
    command = [sys.executable, "-m", "fedjax_comp.experiment.again", str(run)]
    for name in ("module", "data_dir", "raw_dir"):
        if getattr(arguments, name) is not None:
            command.append(f"--{name}={getattr(arguments, name)}")
    ended = subprocess.run(
        [*command, f"--into={into}"], stdout=subprocess.DEVNULL, check=False
    )
    if not (into / FOLDER / LOG).exists():
        raise LogError(f"running {run} again failed with exit code {ended.returncode}.")
    return into


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
    if arguments.entry is not None:
        last, note = note, _cosigned_note(stored, note, arguments.entry)
        if note.text != last.text:
            sizes = [parse_checkpoint(one.text).size for one in (note, last)]
            print(
                f"note: proved by the checkpoint of {sizes[0]} entries, the last that "
                f"a witness has cosigned: the newest, of {sizes[1]}, has no "
                "cosignature.",
                file=sys.stderr,
            )
        leaves = _covered(stored, note)
        text = format_inclusion(prove_inclusion(leaves, arguments.entry, note))
    else:
        leaves = _covered(stored, note)
        text = format_request(make_request(leaves, arguments.old_size, note))
    sys.stdout.write(text)
    return FINE


def _witness(arguments: argparse.Namespace) -> int:
    asked = (arguments.run is not None, arguments.request is not None, arguments.list)
    if sum(asked) != 1:
        raise ValueError("give a run directory, --request or --list, one of them.")
    log_key = load_verifier(arguments.log_key)
    witness = Witness(Path(arguments.state), load_signer(Path(arguments.key)), log_key)
    if arguments.list:
        return _list_logs(witness, log_key)
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
    add_cosigned(folder, cosigned)
    print(f"cosigned: {checkpoint.size} entries, {last.size} of them seen before.")
    return FINE


def _list_logs(witness: Witness, log_key: Verifier) -> int:
    """The notes to standard output, for `verify --against`; a summary beside them."""
    notes = witness.logs()
    for note in notes:
        sys.stdout.write(format_note(note))
    print(f"{log_key.name}: {len(notes)} logs cosigned", file=sys.stderr)
    for note in notes:
        origin, size, _ = parse_checkpoint(note.text)
        print(f"  {origin}: {size} entries", file=sys.stderr)
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


def _cosigned_note(stored: Stored, last: Note, entry: int) -> Note:
    """The checkpoint to prove an entry by, with the signatures of all its witnesses.

    It is the last one, or the largest that witnesses have cosigned if that is not it.
    """
    origin = parse_checkpoint(last.text).origin
    signatures: dict[str, set[Signature]] = {}
    for text in stored.cosigned:
        try:
            note = parse_note(text)
            found = parse_checkpoint(note.text)
        except NoteError:
            continue
        if found.origin == origin and entry < found.size <= len(stored.lines):
            signatures.setdefault(note.text, set()).update(note.signatures)
    if not signatures:
        return last
    text = max(signatures, key=lambda text: parse_checkpoint(text).size)
    own = last.signatures if text == last.text else ()
    rest = sorted(signatures[text] - set(own), key=lambda one: one.name)
    return Note(text, (*own, *rest))


def _covered(stored: Stored, note: Note) -> list[bytes]:
    size = parse_checkpoint(note.text).size
    return [leaf_hash(line) for line in stored.lines[:size]]
