"""`--audit_log`, `--audit_key` and `--run_id`, from flags to a key and a name."""

import pytest

from fedjax_comp.audit.keys import load_signer, make_key
from fedjax_comp.audit.note import NoteError
from fedjax_comp.experiment.errors import UsageError
from fedjax_comp.experiment.flags import common_flags
from fedjax_comp.experiment.pipelines import Pipeline, flags_of
from fedjax_comp.experiment.problem import audit_key, check_audits, keeps_messages


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


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--run_id=a"], "--run_id needs --audit_log"),
        (["--audit_key=k"], "--audit_key needs --audit_log"),
        (["--run_id=a/b", "--audit_log"], "--run_id: Expected a run id"),
        (["--run_id=", "--audit_log"], "--run_id: Expected a run id"),
    ],
)
def test_flags_that_name_no_log(flags, words):
    with pytest.raises(UsageError, match=words):
        check_audits(parsed(*flags))
    check_audits(parsed("--run_id=a", "--audit_log"))


def test_variants_of_one_command_are_several_runs(tmp_path):
    pipelines = [Pipeline(name, "u", "d", "a") for name in ("dense", "sparse")]
    values = parsed(f"--workdir={tmp_path}", "--run_id=monday", "--audit_log")
    ids = [flags_of(one, values, common_flags()).run_id for one in pipelines]
    assert ids == ["monday.dense", "monday.sparse"]
    values = parsed(f"--workdir={tmp_path}", "--audit_log")
    assert flags_of(pipelines[0], values, common_flags()).run_id is None
