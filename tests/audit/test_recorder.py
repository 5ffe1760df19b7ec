"""A run's messages become its log: all of them, by the hash of their bytes."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_comp.algorithms.fed_avg import fed_avg
from fedjax_comp.audit.entry import (
    RESULT,
    SILENCE,
    format_entry,
    parse_entry,
    sha256_hex,
)
from fedjax_comp.audit.hooks import logged
from fedjax_comp.audit.log import LogError, read_log
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
from fedjax_comp.compress import qsgd
from fedjax_comp.run import Problem, Schedule, run
from fedjax_comp.run_directory import open_run, write_json
from fedjax_comp.training import Evaluation, init_state
from fedjax_comp.wire.fields import Raw, Symbols
from fedjax_comp.wire.message import to_bytes
from fedjax_comp.wire.traffic import to_client, to_server
from tests.audit.logs import SIGNER
from tests.problems import make_cohort, make_examples, softmax_task

KEY = jax.random.key(3)
SIZES = [4, 0, 6, 5]
ROUNDS = 6


def problem(**options):
    task = softmax_task()
    uplink = qsgd(4)
    algorithm = fed_avg(
        task,
        client_optimizer=optax.sgd(0.1),
        uplink=uplink,
        **{"keep_messages": True, **options},
    )

    def sample(key, round_index, data):
        del round_index
        order = jax.random.permutation(key, len(SIZES))
        return data._replace(clients=jax.tree.map(lambda x: x[order], data.clients))

    def evaluate(params, examples):
        return Evaluation(jnp.sum(params["bias"]), jnp.mean(examples.x))

    return Problem(
        algorithm=algorithm,
        sample=sample,
        data=make_cohort(SIZES, 2),
        params=task.init(jax.random.key(0)),
        num_clients=len(SIZES),
        evaluate=evaluate,
        test=make_examples(3),
        links={"uplink": uplink},
    )


def logged_run(path, *, signer=SIGNER, **options):
    directory = open_run(path, "small", {"seed": 3})
    ledger, params, summary = run(
        directory,
        problem(**options),
        Schedule(ROUNDS, eval_every=2, checkpoint_every=2),
        KEY,
        show_progress=False,
        hooks=[] if signer is None else [logged(signer)],
    )
    write_json(path / "summary.json", summary)
    return ledger, params


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


def test_every_message_of_every_round_has_an_entry(whole):
    path, ledger, params = whole
    entries = [parse_entry(line) for line in read_log(path / "audit").lines]
    config = sha256_hex((path / "config.json").read_bytes())
    assert {entry.config for entry in entries} == {config}
    *sent, result = entries
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
    assert report.signed == report.entries == ROUNDS * 4 + 1
    others, same = logged_run(tmp_path / "unlogged", signer=None)
    assert params_sha256(same) == params_sha256(params)
    assert others.uplink_bytes == ledger.uplink_bytes
    assert not (tmp_path / "unlogged" / "audit").exists()


def keep_checkpoints(path, count):
    """The first `count` checkpoints; each round has 4 entries and one of them."""
    notes = path / "audit" / "checkpoints"
    notes.write_text("".join(split_notes(notes.read_text())[:count]))


def interrupted(whole, path, rounds):
    """What a kill after the checkpoint of `rounds` leaves behind, its log ahead."""
    shutil.copytree(whole[0], path)
    (path / "summary.json").unlink()
    for checkpoint in (path / "checkpoints").iterdir():
        if int(checkpoint.name) > rounds:
            shutil.rmtree(checkpoint)
    return path


@pytest.mark.parametrize("kept", [25, 17])
def test_rounds_done_again_are_held_to_the_log(whole, tmp_path, kept):
    path = interrupted(whole, tmp_path / "run", 4)
    log = path / "audit" / "log.jsonl"
    before = log.read_bytes()
    if kept < 25:
        # Killed earlier: entries behind round 4, but not all, and one cut short.
        lines = before.split(b"\n")
        log.write_bytes(b"\n".join(lines[:kept]) + b"\n" + lines[kept][:30])
        keep_checkpoints(path, kept // 4)
    logged_run(path)
    assert log.read_bytes() == before
    assert not verify_run(path, SIGNER.verifier).faults


def test_a_resumed_run_that_is_not_the_same_is_stopped(whole, tmp_path):
    path = interrupted(whole, tmp_path / "run", 4)
    before = (path / "audit" / "log.jsonl").read_bytes()
    with pytest.raises(LogError, match=r"differs from .* \(round 5, "):
        logged_run(path, proximal=0.5)
    assert (path / "audit" / "log.jsonl").read_bytes() == before


def test_a_log_that_ends_before_the_checkpoint_is_refused(whole, tmp_path):
    path = interrupted(whole, tmp_path / "run", 4)
    audit = path / "audit"
    lines = (audit / "log.jsonl").read_bytes().split(b"\n")
    (audit / "log.jsonl").write_bytes(b"\n".join(lines[:12]) + b"\n")
    # With the checkpoints cut back as well, the log alone is without a fault.
    keep_checkpoints(path, 3)
    with pytest.raises(LogError, match="of round 4, the log ends at round 3"):
        logged_run(path)


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
        with pytest.raises(ValueError, match="9"):
            recorder.flush()
        assert recorder.entries == 2
    with pytest.raises(LogError, match=r"There is no .*config\.json"):
        Recorder(tmp_path / "elsewhere", SIGNER)


def test_a_round_in_which_nobody_speaks_is_logged_too(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    quiet = Messages(
        (), jnp.zeros((2, 3)), (), jnp.zeros(2, bool), to_server(jnp.arange(2)), ()
    )
    with Recorder(tmp_path, SIGNER) as recorder:
        for t in (1, 2):
            recorder.record(t, {}, {"uplink": quiet})
        recorder.flush()
    with Recorder(tmp_path, SIGNER) as recorder:
        recorder.resume(2)
        recorder.resume(0)
        with pytest.raises(LogError, match="the log ends at round 2"):
            recorder.resume(3)
    lines = read_log(tmp_path / "audit").lines
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
