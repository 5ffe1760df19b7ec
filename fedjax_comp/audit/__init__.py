"""A tamper-evident log of everything that was exchanged in a run.

With `--audit_log` every message of every round leaves an entry: the hash of its bytes,
the round, who sent it to whom, the hash of the model before the round. So does every
row of `metrics.jsonl`; the first entry commits to the configuration without its paths.
The entries are the leaves of a Merkle tree (RFC 9162). After every round its root is
signed (Ed25519; C2SP's signed-note and tlog-checkpoint), and a witness may cosign it.
`python -m fedjax_comp.audit verify DIR` hashes everything again, and `replay DIR` runs
it again.

    canonical               one spelling for what is hashed, signed or proved
    merkle, differences     trees, proofs, and which entry it was
    note, checkpoint, keys  signed texts
    configuration           what a log is named by, and what it commits to
    entry, log, recorder    from messages to lines on the disk
    proof, witness          what others can check without the log
    verify, meaning         the verification of a run directory
    replay, command         the run again, and the command

A log is named by its key and the run's id (`configuration`), wherever the run lies. So
two histories of one run have the same name, and an honest witness cosigns only one of
them. Whoever holds the key can give a second history an id of its own, but not in
secret: a witness lists all ids (`witness --list`), and `verify --against` that list
reports them.

*Tamper-evident, not tamper-proof.* The log does not prevent a change; it shows the
change to whoever has the log's public key from elsewhere. It does not protect from:

- **Lies at the source.** An entry says what the program hashed, and whoever runs it
  can run another one; the log then truthfully records its messages. It does not show
  that a client trained on its data, or that a model is any good.
- **The holder of the private key,** who can sign everything anew. Without `--audit_key`
  the key lies beside the log, which then shows only accidents and changes by others.
- **Two histories, or an earlier state of this one,** unless a witness with a key and a
  disk of its own cosigned, or somebody kept a checkpoint (`verify --against`).
- **Removal of everything.** A log that is gone says nothing, except to a witness.
- **What is not in it:** checkpoints, figures, reports and times by the clock are not
  logged; `config.json`, `metrics.jsonl` and the final parameters' hash in
  `summary.json` are compared.
- **A run that was never made,** unless somebody replays it; and a replay in another
  environment may round differently without anybody's fault.
- **Confidentiality.** Entries are hashes, but whoever guesses a message can confirm it.
"""

from fedjax_comp.audit.command import main
from fedjax_comp.audit.log import Log, LogError, read_log
from fedjax_comp.audit.note import NoteError, Signer, Verifier
from fedjax_comp.audit.recorder import Recorder
from fedjax_comp.audit.verify import Report, verify_run
from fedjax_comp.audit.witness import SplitHistory, Witness

__all__ = [
    "Log",
    "LogError",
    "NoteError",
    "Recorder",
    "Report",
    "Signer",
    "SplitHistory",
    "Verifier",
    "Witness",
    "main",
    "read_log",
    "verify_run",
]
