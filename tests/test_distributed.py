"""Several processes on loopback: one run shared, one killed, and what they are told."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.fed_avg.run import main
from fedjax_comp import distributed
from tests.experiments.small import mistake

ROOT = Path(__file__).parents[1]
FLAGS = [
    "--model=linear()",
    "--num_clients=20",
    "--cohort_size=6",
    "--num_rounds=60",
    "--eval_every=20",
    "--checkpoint_every=10",
    "--audit_every=20",
    "--audit_log",
    (
        "--uplink=error_feedback(chain(top_k(0.1), stochastic_quantize(levels=16), "
        "entropy_coded()))"
    ),
]
EXACT = (
    "rounds",
    "uplink_bytes",
    "downlink_bytes",
    "uplink_messages",
    "audited_messages",
    "audit_failures",
    "test_accuracy",
)


def free_port(low=0):
    for port in range(low, low + 200) if low else [0]:
        with socket.socket() as one:
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                continue
            return one.getsockname()[1]
    raise RuntimeError("no free port")


def start(command, **environment):
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def started(workdir, count, differing=(), flags=()):
    """`count` processes of one run; all but the first have the flags `differing`."""
    address = f"--coordinator_address=127.0.0.1:{free_port()}"
    own = [f"--workdir={workdir}", *FLAGS, *flags, address, f"--num_processes={count}"]
    return [
        start(
            [
                *("-m", "experiments.fed_avg", *own, f"--process_id={i}"),
                *(differing if i else ()),
            ]
        )
        for i in range(count)
    ]


def ended(processes, timeout=240):
    """`(status, standard output, standard error)` of each."""
    found = []
    for one in processes:
        out, err = one.communicate(timeout=timeout)
        found.append((one.returncode, out, err))
    return found


def kill_one(workdir, count, flags=()):
    """Starts a run and kills its last process after a checkpoint: all end."""
    processes = started(workdir, count, flags=flags)
    while not (workdir / "checkpoints" / "10").is_dir():
        assert processes[0].poll() is None, ended(processes)
        time.sleep(0.1)
    processes[-1].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    found = ended(processes)
    assert time.monotonic() - killed < 60
    for status, _, err in found:
        assert status != 0
        assert "goes on at the last checkpoint" in err, err
    assert not (workdir / "summary.json").exists()


def outcome(workdir):
    summary = json.loads((workdir / "summary.json").read_text())
    rows = [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]
    return summary, rows


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run in one process."""
    workdir = tmp_path_factory.mktemp("alone")
    main(["fed_avg", f"--workdir={workdir}", *FLAGS])
    return outcome(workdir)


def assert_same_run(workdir, alone):
    """Bytes and counts to the last one, losses up to the order of float additions."""
    (summary, rows), (expected, expected_rows) = outcome(workdir), alone
    assert {n: summary[n] for n in EXACT} == {n: expected[n] for n in EXACT}
    assert len(rows) == len(expected_rows)
    for row, other in zip(rows, expected_rows, strict=True):
        assert row["uplink_bytes"] == other["uplink_bytes"]
        assert row["test_loss"] == pytest.approx(other["test_loss"], rel=1e-5)
        if other["train_loss"] is not None:
            assert row["train_loss"] == pytest.approx(other["train_loss"], rel=1e-5)


@pytest.mark.thorough
def test_two_processes_that_slurm_has_started_share_a_run(tmp_path, alone):
    first_port = 65535 - 2**12 + 1  # jax takes a port above it by the job's number
    job = free_port(first_port) - first_port
    processes = [
        start(
            ["-m", "experiments.fed_avg", f"--workdir={tmp_path / 'run'}", *FLAGS],
            SLURM_JOB_ID=str(job),
            SLURM_STEP_NODELIST="127.0.0.1",
            SLURM_NTASKS="2",
            SLURM_PROCID=str(i),
            SLURM_LOCALID=str(i),
        )
        for i in range(2)
    ]
    (status, out, err), (other, silent, _) = ended(processes)
    assert (status, other) == (0, 0), err
    assert "report:" in out
    assert "report:" not in silent
    assert_same_run(tmp_path / "run", alone)


FULL_DISK = """
import sys
from experiments.fed_avg.run import main
from fedjax_comp import run
def note_last_round(ledger, dispatch):
    raise OSError(28, "No space left on device")
run.note_last_round = note_last_round  # the first process alone calls it
main(sys.argv)
"""


@pytest.mark.thorough
def test_what_fails_in_the_first_behind_a_round_ends_all(tmp_path):
    """The others are not left waiting for it in another collective."""
    address = f"--coordinator_address=127.0.0.1:{free_port()}"
    own = [f"--workdir={tmp_path}", *FLAGS, address, "--num_processes=2"]
    processes = [start(["-c", FULL_DISK, *own, f"--process_id={i}"]) for i in range(2)]
    try:
        for status, _, err in ended(processes, timeout=100):
            assert status == 1
            assert "No space left on device" in err
    finally:
        for one in processes:
            one.kill()


@pytest.mark.slow  # until a killed process is missed takes up to half a minute
@pytest.mark.parametrize(("count", "then"), [(2, 1), (4, 2)])
def test_one_killed_ends_all_and_the_same_command_goes_on(tmp_path, alone, count, then):
    workdir = tmp_path / "run"
    kill_one(workdir, count)
    if then == 1:
        main(["fed_avg", f"--workdir={workdir}", *FLAGS])
    else:
        assert [status for status, *_ in ended(started(workdir, then))] == [0] * then
    assert_same_run(workdir, alone)


@pytest.mark.slow
def test_clients_on_disk_go_on_with_as_many_processes(tmp_path, alone):
    whole, workdir, disk = tmp_path / "whole", tmp_path / "run", ["--client_store=disk"]
    assert [status for status, *_ in ended(started(whole, 2))] == [0, 0]
    kill_one(workdir, 2, disk)
    for status, _, err in ended(started(workdir, 3, flags=disk)):
        assert status == 2
        assert "--num_processes=2" in err
    found = ended(started(workdir, 2, flags=disk))
    assert [status for status, *_ in found] == [0, 0], found
    assert_same_run(workdir, alone)
    (summary, _), (expected, _) = outcome(workdir), outcome(whole)
    # With as many processes, to the bit: those of states on the devices.
    assert summary["params_sha256"] == expected["params_sha256"]
    assert summary["client_store_clients"] == 20
    files = {path.name for path in workdir.glob("*.rows")}
    assert files == {"clients-0-of-2.rows", "clients-1-of-2.rows"}


@pytest.mark.thorough
def test_other_flags_are_refused_by_every_process(tmp_path):
    processes = started(tmp_path / "run", 2, differing=["--seed=7"])
    for status, _, err in ended(processes):
        assert status == 2
        assert "flags in all processes" in err
        assert "seed" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--num_processes=2", "--coordinator_address and --process_id missing"),
        ("--process_id=0", "--coordinator_address and --num_processes missing"),
        (
            "--coordinator_address=a:1 --num_processes=2 --process_id=2",
            "--process_id=2 is not one of --num_processes=2, 0 to 1",
        ),
        (
            "--coordinator_address=a --num_processes=2 --process_id=0",
            "--coordinator_address=a is not of the form HOST:PORT",
        ),
        (
            (
                "--coordinator_address=a:1 --num_processes=2 --process_id=1 "
                "--execution=scanned()"
            ),
            "--execution=scanned() would train the whole cohort in every process",
        ),
    ],
)
def test_mistakes_are_told_before_anything_is_waited_for(tmp_path, capsys, flags, told):
    found = mistake(main, capsys, [f"--workdir={tmp_path / 'run'}", *flags.split()])
    assert told in found
    assert not (tmp_path / "run").exists()


def test_a_cluster_is_known_by_its_environment():
    step = {
        "SLURM_JOB_ID": "3",
        "SLURM_STEP_NODELIST": "node[1-2]",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
    }
    assert distributed.in_cluster(step)
    assert not distributed.in_cluster({**step, "SLURM_NTASKS": "1"})
    # An allocation's shell has no step: whoever types there is alone.
    assert not distributed.in_cluster(
        {n: x for n, x in step.items() if n != "SLURM_STEP_NODELIST"}
    )
    assert not distributed.in_cluster({"TPU_WORKER_HOSTNAMES": "localhost"})
