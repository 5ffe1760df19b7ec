"""`--audit_log` and `--audit_key`, from flags to a key."""

import pytest

from fedjax_comp.audit.keys import load_signer, make_key
from fedjax_comp.audit.note import NoteError
from fedjax_comp.experiment.flags import common_flags
from fedjax_comp.experiment.problem import audit_key, keeps_messages


def parsed(*argv):
    values = common_flags()
    values(["program", *argv])
    return values


def test_without_the_flag_there_is_no_key(tmp_path):
    values = parsed(f"--workdir={tmp_path}")
    assert audit_key("fed_avg", values) is None
    assert not keeps_messages(values)
    assert keeps_messages(parsed("--audit_every=3"))
    assert not list(tmp_path.iterdir())


def test_a_key_is_made_once_beside_the_log(tmp_path):
    values = parsed("--audit_log", f"--workdir={tmp_path}")
    assert keeps_messages(values)
    signer = audit_key("fed_avg", values)
    assert signer.verifier.name == "fedjax_comp/fed_avg"
    assert audit_key("fed_avg", values) == signer
    assert load_signer(tmp_path / "audit" / "log.key") == signer


def test_a_key_from_elsewhere(tmp_path):
    signer = make_key(tmp_path / "key", "example.com/log")
    workdir = f"--workdir={tmp_path / 'run'}"
    values = parsed("--audit_log", workdir, f"--audit_key={tmp_path / 'key'}")
    assert audit_key("fed_avg", values) == signer
    assert not (tmp_path / "run").exists()
    with pytest.raises(NoteError, match="cannot be read"):
        audit_key("fed_avg", parsed("--audit_log", workdir, "--audit_key=nowhere"))
