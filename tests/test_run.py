"""A run killed at any moment ends as one that was never killed."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.fed_avg.run import main
from fedjax_comp.run import params_sha256

ROOT = Path(__file__).parents[1]
FLAGS = [
    "--model=linear()",
    "--num_clients=20",
    "--cohort_size=4",
    "--num_rounds=36",
    "--eval_every=3",
    "--checkpoint_every=4",
    "--audit_every=12",
    (
        "--uplink=error_feedback(chain(top_k(0.1), stochastic_quantize(levels=16), "
        "entropy_coded()))"
    ),
    "--server_optimizer=sgd(1.0, momentum=0.5)",
]
TIMED = {
    "seconds_total",
    "seconds_per_round",
    "client_steps_per_second",
    "compile_seconds",
    "peak_memory_bytes",
    "client_store_wait_seconds",
}
ON_DISK = ["--client_store=disk"]


def start(workdir, flags=()):
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "experiments.fed_avg", f"--workdir={workdir}"),
            *(*FLAGS, *flags),
        ],
        cwd=ROOT,
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            # One compilation for all these processes.
            "JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(workdir, flags=()):
    process = start(workdir, flags)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


def outcome(workdir):
    summary = json.loads((workdir / "summary.json").read_text())
    rows = [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]
    untimed = [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
    return {k: v for k, v in summary.items() if k not in TIMED}, untimed


def wait_for_rounds(workdir, process, rounds):
    deadline = time.monotonic() + 240
    metrics = workdir / "metrics.jsonl"
    while time.monotonic() < deadline and process.poll() is None:
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        if lines and json.loads(lines[-1])["round"] >= rounds:
            return
        time.sleep(0.002)


def finish_killed(workdir, flags, after):
    for rounds in after:
        process = start(workdir, flags)
        wait_for_rounds(workdir, process, rounds)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    finish(workdir, flags)


@pytest.mark.thorough
def test_sigkill_and_resume_is_bit_identical(tmp_path, capsys):
    finish(tmp_path / "whole")
    killed = tmp_path / "killed"
    # Before there is a checkpoint, and between or while saving. `make soak` kills at
    # random, while importing and compiling as well.
    finish_killed(killed, [], (3, 22))
    assert outcome(killed) == outcome(tmp_path / "whole")
    assert outcome(killed)[0]["audit_failures"] == 0
    assert outcome(killed)[0]["audited_messages"] == 3 * (4 + 1)

    before = {p: p.stat().st_mtime_ns for p in killed.rglob("*") if p.is_file()}
    main(["", f"--workdir={killed}", *FLAGS])
    assert "has finished; nothing was changed" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in killed.rglob("*") if p.is_file()}


@pytest.mark.slow
def test_sigkill_with_clients_on_disk_is_bit_identical(tmp_path):
    whole, on_disk = tmp_path / "whole", tmp_path / "on_disk"
    finish(whole)
    finish_killed(on_disk, ON_DISK, (3, 22))
    # In every bit but for what is said of the disk.
    summary, rows = outcome(on_disk)
    assert summary.pop("client_store_clients") == 20
    assert summary.pop("client_store_bytes") == 20 * 4096
    assert (summary, rows) == outcome(whole)


def test_params_sha256_is_of_the_leaves_in_path_order():
    params = {"b": jnp.array([1.0]), "a": {"z": jnp.array([2], jnp.int32)}}
    expected = hashlib.sha256(
        np.array([2], np.int32).tobytes() + np.array([1.0], np.float32).tobytes()
    ).hexdigest()
    assert params_sha256(params) == expected
    assert params_sha256(jax.tree.map(lambda x: x + 1, params)) != expected


@pytest.mark.parametrize("flag", ["--seed=1", "--uplink=top_k(0.2)"])
def test_another_configuration_is_refused(tmp_path, capsys, flag):
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "format": 1,
                "experiment": "fed_avg",
                "flags": {"seed": 0, "uplink": "x"},
                "versions": {},
                "git_commit": None,
            }
        )
    )
    with pytest.raises(SystemExit) as stop:
        main(["", f"--workdir={tmp_path}", flag])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert flag[2:].split("=")[0] in line


def test_importing_it_brings_nothing_that_draws_or_holds_data():
    program = "import sys, fedjax_comp.run; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert not {"matplotlib", "sklearn", "scipy"} & set(done.stdout.split())
