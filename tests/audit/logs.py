"""Small logs for these tests."""

import json

from fedjax_comp.audit.configuration import config_sha256, origin_of, run_id_of
from fedjax_comp.audit.entry import (
    FORMAT,
    RESULT,
    Beginning,
    Entry,
    format_entry,
    sha256_hex,
)
from fedjax_comp.audit.log import FOLDER, Log
from fedjax_comp.audit.note import make_signer

SIGNER = make_signer("example.com/log", bytes(range(32)))
CONFIG = b"{}"
CONFIG_SHA256 = config_sha256({})
RUN_ID = run_id_of({})
ORIGIN = origin_of(SIGNER.verifier, RUN_ID)


def make_entry(i, per_round=10, salt=""):
    """Entry `i` of a made-up run; another `salt` is another history."""
    at = 1 + i // per_round
    message, model = sha256_hex(f"{salt}{i}".encode()), sha256_hex(str(at).encode())
    client = f"client {i % per_round}"
    return Entry(at, "uplink", 0, client, "server", message, model, CONFIG_SHA256)


def make_lines(count, per_round=10, salt="", origin=ORIGIN):
    """The beginning and entries 1 to `count - 1`, the last one the result."""
    beginning = Beginning(FORMAT, origin, CONFIG_SHA256)
    entries = [make_entry(i, per_round, salt) for i in range(1, count - 1)]
    last = entries[-1]
    result = last._replace(
        kind=RESULT, sender="server", receiver="", message=last.model
    )
    return [format_entry(entry) for entry in [beginning, *entries, result]]


def make_run(run, lines, per_round=10, origin=ORIGIN):
    """A finished run directory whose log has these lines, a checkpoint a round."""
    run.mkdir(exist_ok=True)
    (run / "config.json").write_bytes(CONFIG)
    with Log(run / FOLDER, SIGNER, origin) as log:
        for first in range(0, len(lines), per_round):
            log.append(lines[first : first + per_round])
            log.checkpoint()
    last = json.loads(lines[-1])
    summary = {"params_sha256": last["message"], "rounds": last["round"]}
    (run / "summary.json").write_text(json.dumps(summary))
    return run
