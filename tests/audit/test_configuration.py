"""What names a log, and what its first entry commits to."""

import pytest

from fedjax_comp.audit.configuration import (
    UNCOMMITTED,
    check_run_id,
    config_sha256,
    origin_of,
    run_id_of,
)
from fedjax_comp.audit.note import COSIGNATURE, make_signer
from fedjax_comp.experiment.flags import AUDITS, common_flags

CONFIG = {
    "experiment": "fed_avg",
    "flags": {
        "seed": 1,
        "uplink": "qsgd(4)",
        "workdir": "runs/a",
        "data_dir": None,
        "audit_key": "key",
        "num_rounds": 10,
    },
    "versions": {"jax": "0.10.2"},
    "git_commit": "c0ffee",
}


def changed(**flags):
    return {**CONFIG, "flags": {**CONFIG["flags"], **flags}}


def test_paths_and_what_may_differ_on_resuming_are_in_neither():
    for flags in (
        {"workdir": "elsewhere"},
        {"audit_key": "elsewhere"},
        {"data_dir": "elsewhere", "raw_dir": "elsewhere"},
        {"num_rounds": 20},
        {"checkpoint_every": 3, "audit_every": 1, "progress": False},
        {"run_id": "x", "audit_log": True},
        {"a_later_flag": None},
    ):
        assert run_id_of(changed(**flags)) == run_id_of(CONFIG), flags
        assert config_sha256(changed(**flags)) == config_sha256(CONFIG), flags
    # All of them are flags that there are.
    assert set(common_flags()) >= UNCOMMITTED >= set(AUDITS)


def test_what_is_run_is_in_both():
    others = [changed(seed=2), changed(uplink="qsgd(5)"), changed(seed=None)]
    others += [{**CONFIG, "experiment": "frontier"}]
    for other in others:
        assert run_id_of(other) != run_id_of(CONFIG)
        assert config_sha256(other) != config_sha256(CONFIG)


def test_versions_and_commit_are_in_the_first_entry_and_not_in_the_name():
    for other in (
        {**CONFIG, "git_commit": "other"},
        {**CONFIG, "versions": {"jax": "0.11.2"}},
    ):
        assert run_id_of(other) == run_id_of(CONFIG)
        assert config_sha256(other) != config_sha256(CONFIG)
    assert config_sha256({**CONFIG, "resumed": 3}) == config_sha256(CONFIG)


@pytest.mark.parametrize("experiment", [None, "", "a b/c", "split_learning.vertical"])
def test_every_experiment_gives_an_id_that_can_be_one(experiment):
    check_run_id(run_id_of({"experiment": experiment}))
    check_run_id(run_id_of({"experiment": (experiment or "-") * 30}))


@pytest.mark.parametrize("run_id", ["", "a/b", ".a", "a b", "a\n", "a+b", "x" * 65])
def test_what_cannot_be_an_id(run_id):
    with pytest.raises(ValueError, match="Expected a run id"):
        check_run_id(run_id)


def test_a_name_is_of_one_key():
    keys = [
        make_signer(name, bytes([seed]) * 32, kind=kind).verifier
        for name, seed, kind in (
            ("example.com/log", 0, 1),
            ("example.com/log", 1, 1),
            ("example.com/log", 0, COSIGNATURE),
            ("example.com/other", 0, 1),
        )
    ]
    names = [origin_of(key, "id") for key in keys]
    assert len(set(names)) == 4
    for name, key in zip(names, keys, strict=True):
        assert name.startswith(f"{key.name}/")
