"""What a log commits to of a run's configuration, and the log's name.

A log is named by its key and the run's id,

    <key name>/<the first 16 hex digits of SHA-256(type || public key)>/<run id>

and not by where the run lies, what its key's file is called, or how its JSON is spaced.
Without `--run_id` the id is the experiment's name and a hash of its flags, seed
included. A run is deterministic in these, so a second log of that name either has the
same entries or is a second history, which a witness refuses. To run the same again on
purpose, after a change of the code for instance, give it an id of its own; a witness
and `verify` list all ids that a key has signed.

The log's first entry commits to more than the name: to the flags, the versions and the
git commit that the run began with. Neither the name nor the entry covers `UNCOMMITTED`:
paths, and what may differ between two commands of which one continues the other.
"""

import hashlib
import re
from pathlib import Path
from typing import Any

from fedjax_comp import strict_json
from fedjax_comp.audit.canonical import to_json
from fedjax_comp.audit.entry import sha256_hex
from fedjax_comp.audit.note import Verifier
from fedjax_comp.run_directory import SPEED_ONLY_FLAGS

UNCOMMITTED = SPEED_ONLY_FLAGS | {
    "audit_every",
    "audit_log",
    "checkpoint_every",
    "client_store",
    "num_rounds",
    "run_id",
}
"""Flags that say where a run lies, how long it goes on, or what is kept of it."""

ENVIRONMENT = ("versions", "git_commit")
"""Of `config.json`: what ran, which the first entry covers and the name does not."""

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_KEY_DIGITS, _ID_DIGITS = 16, 16


def origin_of(key: Verifier, run_id: str) -> str:
    """The name of a log.

    Args:
      key: the key that signs it.
      run_id: the run's id.

    Raises:
      ValueError: for an id that `check_run_id` refuses.
    """
    check_run_id(run_id)
    public = hashlib.sha256(bytes([key.kind]) + key.public).hexdigest()
    return f"{key.name}/{public[:_KEY_DIGITS]}/{run_id}"


def check_run_id(run_id: str) -> None:
    """Refuses what cannot be the last part of a log's name.

    Raises:
      ValueError: unless it is 1 to 64 letters, digits, dots, dashes and underscores,
        the first of them a letter or a digit.

    >>> check_run_id("mnist-2026.1")
    """
    if not _RUN_ID.fullmatch(run_id):
        raise ValueError(
            "Expected a run id of 1 to 64 letters, digits, '.', '-' and '_', got "
            f"{run_id[:80]!r}."
        )


def run_id_of(config: dict[str, Any]) -> str:
    """The id of a run that was given none: what is run, and a hash of how.

    Args:
      config: what `config.json` holds.

    >>> here = {"experiment": "fed_avg", "flags": {"seed": 1, "workdir": "here"}}
    >>> there = {"flags": {"workdir": "there", "seed": 1}, "experiment": "fed_avg"}
    >>> run_id_of(here) == run_id_of(there)
    True
    """
    experiment = config.get("experiment")
    digest = sha256_hex(to_json([experiment, _committed_flags(config)]))
    word = re.sub(r"[^A-Za-z0-9._-]", "_", str(experiment or "run"))[:40]
    return f"{word if word[:1].isalnum() else 'run'}-{digest[:_ID_DIGITS]}"


def config_sha256(config: dict[str, Any]) -> str:
    """SHA-256 of what the first entry commits to, in hex.

    Args:
      config: what `config.json` holds.
    """
    committed = {
        "experiment": config.get("experiment"),
        "flags": _committed_flags(config),
        **{name: config.get(name) for name in ENVIRONMENT},
    }
    return sha256_hex(to_json(committed))


def read_config(path: Path) -> dict[str, Any]:
    """What `config.json` holds.

    Raises:
      ValueError: when it is missing or is not a JSON object with an object of flags,
        each of them given once.
    """
    if not path.exists():
        raise ValueError(f"There is no {path}.")
    try:
        config = strict_json.parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}.") from error
    if not isinstance(config, dict) or not isinstance(config.get("flags", {}), dict):
        raise ValueError(f"{path} does not hold a run's configuration.")
    return config


def _committed_flags(config: dict[str, Any]) -> dict[str, Any]:
    given = config.get("flags", {})
    # A flag that is not set is as one that a former version did not have.
    return {n: x for n, x in given.items() if n not in UNCOMMITTED and x is not None}
