"""A run's messages become its log: all of them, by the hash of their bytes."""

import json
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.audit.checkpoint import read_checkpoint
from fedjax_comp.audit.configuration import config_sha256, origin_of
from fedjax_comp.audit.entry import (
    EVALUATION,
    RESULT,
    SILENCE,
    format_entry,
    parse_beginning,
    parse_entry,
    row_sha256,
    sha256_hex,
)
from fedjax_comp.audit.hooks import logged
from fedjax_comp.audit.log import Log, LogError, read_log
from fedjax_comp.audit.note import split_notes
from fedjax_comp.audit.recorder import (
    Recorder,
    Sent,
    digests,
    params_sha256,
    rows,
)
from fedjax_comp.audit.verify import verify_run
from fedjax_comp.base import EVERYONE, Ends, Messages
from fedjax_comp.hooks import Hook
from fedjax_comp.run import Schedule, run
from fedjax_comp.run_directory import open_run
from fedjax_comp.training import init_state
from fedjax_comp.wire.fields import Raw, Symbols
from fedjax_comp.wire.message import to_bytes
from fedjax_comp.wire.traffic import to_client, to_server
from tests.audit.logs import SIGNER, make_entry
from tests.audit.small_run import KEY, ROUNDS, SIZES, logged_run, problem

QUIET = Messages(
    (), jnp.zeros((2, 3)), (), jnp.zeros(2, bool), to_server(jnp.arange(2)), ()
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "run"
    return path, *logged_run(path)


def replay():
    """Every round again, one by one and without the run's program."""
    made, expected = problem(), []
    algorithm = made.algorithm
    state = init_state(KEY, algorithm, made.params, made.num_clients)
    server, clients = state.server, state.clients
    step = jax.jit(algorithm.round)
    for t in range(ROUNDS):
        before = params_sha256(algorithm.params(server))
        sample_key, key = jax.random.split(jax.random.fold_in(state.key, t))
        cohort = made.sample(sample_key, t, made.data)
        ids = cohort.clients.client_id
        mine = jax.tree.map(lambda x, ids=ids: x[ids], clients)
        server, _, info = step(key, server, mine, cohort)
        ends = {"uplink": ids.tolist(), "downlink": [None]}
        for name in info.messages:
            sent = info.messages[name]
            for i, client in enumerate(ends[name]):
                if not sent.spoke[i]:
                    continue
                data = to_bytes(jax.tree.map(lambda x, i=i: x[i], sent.payload))
                expected.append((t + 1, name, client, sha256_hex(data), before))
    return expected


@pytest.mark.thorough
def test_every_message_of_every_round_has_an_entry(whole):
    path, ledger, params = whole
    first, *lines = read_log(path / "audit").lines
    beginning, entries = parse_beginning(first), [parse_entry(x) for x in lines]
    config = config_sha256(json.loads((path / "config.json").read_text()))
    assert beginning.config == config
    assert beginning.log == origin_of(SIGNER.verifier, beginning.log.split("/")[-1])
    assert {entry.config for entry in entries} == {config}
    *sent, result = [x for x in entries if x.kind != EVALUATION]
    clients = {"server": None, **{f"client {i}": i for i in range(len(SIZES))}}
    found = [(x.round, x.kind, clients[x.sender], x.message, x.model) for x in sent]
    assert sorted(found, key=str) == sorted(replay(), key=str)
    # The client without examples says nothing; a broadcast is one message.
    assert len(found) == ROUNDS * (3 + 1)
    uplink = [x for x in sent if x.kind == "uplink"]
    assert len(uplink) == ledger.uplink_messages
    assert {x.receiver for x in uplink} == {"server"}
    assert {x.receiver for x in sent if x.kind == "downlink"} == {"everyone"}
    final = params_sha256(params)
    assert result[:4] == (ROUNDS, RESULT, 0, "server")
    assert (result.message, result.model) == (final, final)


def test_the_log_verifies_and_changes_nothing(whole, tmp_path):
    path, ledger, params = whole
    report = verify_run(path, SIGNER.verifier)
    assert not report.faults
    # The beginning, the evaluations before round 1 and of rounds 2, 4, 6, the result.
    assert report.signed == report.entries == 1 + ROUNDS * 4 + 4 + 1
    others, same = logged_run(tmp_path / "unlogged", signer=None)
    assert params_sha256(same) == params_sha256(params)
    assert others.uplink_bytes == ledger.uplink_bytes
    assert not (tmp_path / "unlogged" / "audit").exists()


def test_every_evaluation_has_an_entry(whole):
    path, ledger, _ = whole
    entries = [parse_entry(line) for line in read_log(path / "audit").lines[1:]]
    rows = [x for x in entries if x.kind == EVALUATION]
    assert [x.round for x in rows] == [0, 2, 4, 6]
    assert [x.message for x in rows] == [row_sha256(row) for row in ledger.rows]
    text = (path / "metrics.jsonl").read_text()
    stored = [json.loads(line) for line in text.splitlines()]
    assert [x.message for x in rows] == [row_sha256(row) for row in stored]
    # Behind the messages of its round, before those of the next.
    places = [i for i, x in enumerate(entries) if x.kind == EVALUATION]
    assert places == [0, 9, 18, 27]


def keep_checkpoints(path, size):
    """The checkpoints of at most `size` entries."""
    file = path / "audit" / "checkpoints"
    notes = split_notes(file.read_text())
    sizes = [read_checkpoint(note, SIGNER.verifier).size for note in notes]
    kept = [note for note, n in zip(notes, sizes, strict=True) if n <= size]
    file.write_text("".join(kept))


def interrupted(whole, path, rounds):
    """What a kill after the checkpoint of `rounds` leaves behind, its log ahead."""
    shutil.copytree(whole[0], path)
    (path / "summary.json").unlink()
    for checkpoint in (path / "checkpoints").iterdir():
        if int(checkpoint.name) > rounds:
            shutil.rmtree(checkpoint)
    return path


# Killed behind the checkpoint of round 4, or before the first one.
@pytest.mark.parametrize(("rounds", "kept"), [(4, 30), (4, 25), (4, 20), (0, 9)])
def test_rounds_done_again_are_held_to_the_log(whole, tmp_path, rounds, kept):
    path = interrupted(whole, tmp_path / "run", rounds)
    log = path / "audit" / "log.jsonl"
    before = log.read_bytes()
    if kept < 30:
        # Entries behind the checkpoint, but not all, and one cut short.
        lines = before.split(b"\n")
        log.write_bytes(b"\n".join(lines[:kept]) + b"\n" + lines[kept][:30])
        keep_checkpoints(path, kept)
    logged_run(path)
    assert log.read_bytes() == before
    assert not verify_run(path, SIGNER.verifier).faults


def test_a_resumed_run_that_is_not_the_same_is_stopped(whole, tmp_path):
    path = interrupted(whole, tmp_path / "run", 4)
    before = (path / "audit" / "log.jsonl").read_bytes()
    with pytest.raises(LogError, match=r"differs from .* \(round 5, "):
        logged_run(path, proximal=0.5)
    assert (path / "audit" / "log.jsonl").read_bytes() == before


# 14 entries up to round 3; 18 up to the messages of round 4, 19 with its evaluation.
@pytest.mark.parametrize(("kept", "found"), [(14, "3 and 2"), (18, "4 and 2")])
def test_a_log_that_ends_before_the_checkpoint_is_refused(whole, tmp_path, kept, found):
    path = interrupted(whole, tmp_path / "run", 4)
    audit = path / "audit"
    lines = (audit / "log.jsonl").read_bytes().split(b"\n")
    (audit / "log.jsonl").write_bytes(b"\n".join(lines[:kept]) + b"\n")
    # With the checkpoints cut back as well, the log alone is without a fault.
    keep_checkpoints(path, kept)
    match = f"of round 4 and 3 evaluations, the log ends at round {found}"
    with pytest.raises(LogError, match=match):
        logged_run(path)


def test_a_checkpoint_waits_for_the_log(tmp_path, monkeypatch):
    """No checkpoint knows of a round, or of a row, that is not signed yet."""
    plain, seen = Log.append, []

    def slow(log, entries):
        time.sleep(0.05)
        plain(log, entries)

    def look(live, state):
        del state
        stored = read_log(live.directory.path / "audit")
        signed = read_checkpoint(stored.notes[-1], SIGNER.verifier).size
        entries = [parse_entry(line) for line in stored.lines[1:signed]]
        rows = sum(x.kind == EVALUATION for x in entries)
        seen.append((live.ledger.rounds, entries[-1].round, rows))

    monkeypatch.setattr(Log, "append", slow)
    directory = open_run(tmp_path, "small", {"seed": 3})
    # `checkpoint` goes backwards: what stands before the log looks later.
    hooks = [Hook(checkpoint=look), logged(SIGNER)]
    schedule = Schedule(3, eval_every=1, checkpoint_every=1)
    run(directory, problem(), schedule, KEY, show_progress=False, hooks=hooks)
    assert seen == [(1, 1, 2), (2, 2, 3), (3, 3, 4)]


def test_another_workdir_or_key_path_is_the_same_log(tmp_path):
    names, entries = [], []
    for place, indent in (("here", 1), ("there", None)):
        path = tmp_path / place
        path.mkdir()
        flags = {"seed": 1, "workdir": str(path), "audit_key": f"{place}/key"}
        config = {"experiment": "small", "flags": flags, "git_commit": "c"}
        (path / "config.json").write_text(json.dumps(config, indent=indent))
        with Recorder(path, SIGNER) as recorder:
            recorder.finish(0, {})
        lines = read_log(path / "audit").lines
        names.append(parse_beginning(lines[0]).log)
        entries.append(lines)
    assert names[0] == names[1]
    assert entries[0] == entries[1]
    name, key, run_id = names[0].rsplit("/", 2)
    assert name == SIGNER.verifier.name
    assert len(key) == 16
    assert run_id.startswith("small-")


def test_a_run_may_be_named(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with Recorder(tmp_path, SIGNER, "second") as recorder:
        recorder.finish(0, {})
    assert verify_run(tmp_path, SIGNER.verifier).origin.endswith("/second")
    with pytest.raises(LogError, match=r"is of .*/second, not of"):
        Recorder(tmp_path, SIGNER, "third")
    with pytest.raises(ValueError, match="Expected a run id"):
        Recorder(tmp_path, SIGNER, "a/b")


def test_a_configuration_that_was_changed_is_refused(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("{}")
    with Recorder(tmp_path, SIGNER, "id") as recorder:
        recorder.finish(0, {})
    path.write_text('{"flags": {"num_rounds": 3, "workdir": "w"}}')
    Recorder(tmp_path, SIGNER, "id").__exit__()
    path.write_text('{"git_commit": "other"}')
    with pytest.raises(LogError, match="another configuration than the log began"):
        Recorder(tmp_path, SIGNER, "id")
    path.write_text("[]")
    with pytest.raises(LogError, match="does not hold a run's configuration"):
        Recorder(tmp_path, SIGNER, "id")


def test_a_log_of_another_format_is_not_continued(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with Log(tmp_path / "audit", SIGNER, SIGNER.verifier.name) as log:
        log.append([format_entry(make_entry(0))])
        log.checkpoint()
    with pytest.raises(LogError, match="Expected a log of format 2, got 1"):
        Recorder(tmp_path, SIGNER)


def test_a_run_that_had_ended_goes_on(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    for rounds in (1, 3, 3):
        with Recorder(tmp_path, SIGNER) as recorder:
            recorder.resume(min(rounds - 1, 1), 0)
            for t in range(min(rounds, 2), rounds + 1):
                recorder.record(t, {}, {"uplink": QUIET})
            recorder.finish(rounds, {})
    lines = read_log(tmp_path / "audit").lines[1:]
    found = [(x.round, x.kind) for x in map(parse_entry, lines)]
    silent = [(t, SILENCE) for t in (1, 2, 3)]
    assert found == [silent[0], (1, RESULT), *silent[1:], (3, RESULT)]
    assert not verify_run(tmp_path, SIGNER.verifier).faults


def test_a_run_that_went_on_is_resumed_behind_its_former_results(tmp_path):
    (tmp_path / "config.json").write_text("{}")

    def go_on(rounds, until, finish):
        with Recorder(tmp_path, SIGNER) as recorder:
            recorder.resume(rounds, rounds)
            for t in range(rounds + 1, until + 1):
                recorder.record(t, {}, {"uplink": QUIET})
                recorder.record_row(t, {"round": t})
            recorder.flush()
            if finish:
                recorder.finish(until, {})
        return [parse_entry(x) for x in read_log(tmp_path / "audit").lines[1:]]

    go_on(0, 1, finish=True)
    go_on(1, 3, finish=True)
    killed = go_on(3, 5, finish=False)
    # From checkpoints between two results and behind the last one.
    for rounds in (2, 3, 4, 5):
        assert go_on(rounds, 5, finish=False) == killed
    with pytest.raises(LogError, match="the log ends at round 5 and 5"):
        go_on(6, 6, finish=False)
    entries = go_on(5, 6, finish=True)
    assert [x.round for x in entries if x.kind == RESULT] == [1, 3, 6]
    assert [x.round for x in entries if x.kind == SILENCE] == [1, 2, 3, 4, 5, 6]


def test_an_algorithm_without_messages_is_refused(tmp_path):
    directory = open_run(tmp_path, "log", {})
    made = problem(keep_messages=False)
    with pytest.raises(ValueError, match=r"--audit_log .* keep_messages=True"):
        run(directory, made, Schedule(1), KEY, hooks=[logged(SIGNER)])


def test_a_log_that_cannot_be_written_stops_the_run(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    one = Messages(
        (), jnp.zeros((2, 3)), (), jnp.ones(2, bool), to_server(jnp.arange(2)), ()
    )
    with Recorder(tmp_path, SIGNER) as recorder:
        recorder.record(1, {}, {"uplink": one})
        recorder.flush()
        bad = one._replace(payload=Symbols(jnp.full((2, 3), 9, jnp.uint8), 4))
        recorder.record(2, {}, {"uplink": bad})
        recorder.record_row(2, {"round": 2})  # nothing follows what failed
        with pytest.raises(ValueError, match="9"):
            recorder.flush()
        assert recorder.entries == 3
    with pytest.raises(LogError, match=r"There is no .*config\.json"):
        Recorder(tmp_path / "elsewhere", SIGNER)


def test_a_round_in_which_nobody_speaks_is_logged_too(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with Recorder(tmp_path, SIGNER) as recorder:
        for t in (1, 2):
            recorder.record(t, {}, {"uplink": QUIET})
        recorder.flush()
    with Recorder(tmp_path, SIGNER) as recorder:
        recorder.resume(2, 0)
        recorder.resume(0, 0)
        with pytest.raises(LogError, match="the log ends at round 2"):
            recorder.resume(3, 0)
    lines = read_log(tmp_path / "audit").lines[1:]
    entries = [parse_entry(line) for line in lines]
    assert [(x.round, x.kind) for x in entries] == [(1, SILENCE), (2, SILENCE)]
    assert [format_entry(x) for x in entries] == lines


def test_rows_are_the_clients_payloads():
    payload = {
        "a": Symbols(jnp.arange(12, dtype=jnp.uint8).reshape(3, 4) % 5, 5),
        "b": [Raw(jnp.arange(3.0)), jnp.arange(6.0).reshape(3, 2)],
    }
    for i, one in enumerate(rows(payload, 3)):
        same = jax.tree.map(lambda x, i=i: x[i], payload)
        assert to_bytes(one) == to_bytes(same)
        assert jax.tree.structure(one) == jax.tree.structure(same)


def test_rows_of_an_array_on_several_devices():
    mesh = jax.make_mesh((jax.local_device_count(),), ("clients",))
    count = 2 * jax.local_device_count()
    values = np.arange(3.0 * count, dtype=np.float32).reshape(count, 3)
    for spec in (("clients",), (None,)):
        sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
        spread = jax.device_put(values, sharding)
        np.testing.assert_array_equal(np.stack(rows(spread, count)), values)


def test_ends_of_messages():
    nothing, both = jnp.zeros((3, 2)), jnp.array([True, False, True])
    ids = jnp.array([7, 8, 9])
    up = Sent(nothing, both, to_server(ids))
    found = [(place, *ends) for place, ends, _ in digests(up)]
    assert found == [(0, "client 7", "server"), (2, "client 9", "server")]
    down = Sent(nothing, both, to_client(ids))
    ends = [x for _, x, _ in digests(down)]
    assert ends == [("server", "client 7"), ("server", "client 9")]
    peers = Sent(nothing, both, Ends(ids, ids[::-1]))
    ends = [x for _, x, _ in digests(peers)]
    assert ends == [("client 7", "client 9"), ("client 9", "client 7")]
    said = Sent(jnp.zeros((1, 2)), jnp.ones(1, bool), to_client(jnp.array([EVERYONE])))
    assert [x for _, x, _ in digests(said)] == [("server", "everyone")]


def test_a_log_that_refuses_to_go_on_names_what_is_no_longer_as_it_was(whole, tmp_path):
    path = tmp_path / "run"
    interrupted(whole, path, 4)
    start = json.loads((path / "starts.jsonl").read_text())
    start["devices"] = "64 x abacus"
    (path / "starts.jsonl").write_text(json.dumps(start) + "\n")
    # Another rate stands for float sums of another order.
    with pytest.raises(LogError, match="differs from the one logged before") as error:
        logged_run(path, proximal=0.5)
    assert "(64 x abacus at first): go on as it began" in str(error.value)
