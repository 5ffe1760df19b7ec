"""Commands killed at random moments end as one that was never killed.

    python -m tests.soak.kills --results=kills.jsonl [--kills=50] [NAME ...]

Every command of `COMMANDS` is first run whole. Then it is started, and killed after a
random time (SIGKILL, every fourth SIGTERM), again and again; whenever it comes to its
end, what it left is compared with the whole one, times apart, and it begins anew.
Of a run that several processes share, one is killed, and the others are to end by
themselves.
"""

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from fedjax_comp.distributed.members import CONNECT_SECONDS, HEARTBEAT_SECONDS
from fedjax_comp.network.kept_costs import COSTS

ROOT = Path(__file__).resolve().parents[2]

SMALL = (
    "--quick",
    "--noprogress",
    "--model=linear()",
    "--num_clients=20",
    "--cohort_size=4",
    "--num_rounds=60",
    "--eval_every=3",
    "--checkpoint_every=4",
    "--audit_every=20",
    "--uplink=error_feedback(chain(top_k(0.1), qsgd(4), entropy_coded()))",
)
QUICK = ("--quick", "--noprogress")

COMMANDS = {
    "fed_avg": ("fed_avg", *SMALL),
    "fed_avg, log": ("fed_avg", *SMALL, "--audit_log"),
    "fed_avg, disk": ("fed_avg", *SMALL, "--client_store=disk"),
    "fed_avg, links": (
        "fed_avg",
        *SMALL,
        "--network=markov()",
        "--devices=mixed()",
        "--deadline_seconds=60",
    ),
    "fed_avg, links and log": (
        "fed_avg",
        *SMALL,
        "--network=lognormal()",
        "--audit_log",
    ),
    "fed_avg, late": (
        "fed_avg",
        *SMALL,
        "--network=lognormal()",
        "--concurrency=8",
    ),
    "fed_avg, two processes": ("fed_avg", *SMALL),
    "fed_avg, two processes, disk": ("fed_avg", *SMALL, "--client_store=disk"),
    "fed_avg.compare": (
        "fed_avg.compare",
        *SMALL,
        "--pipeline=a: identity() | identity()",
        "--pipeline=b: error_feedback(top_k(0.1)) | qsgd(4)",
    ),
    "fed_dlr": ("fed_dlr", *QUICK, "--checkpoint_every=3"),
    "adaptive": ("adaptive", *QUICK, "--num_rounds=8", "--checkpoint_every=2"),
    "frontier": ("frontier", *QUICK, "--dataset=digits", "--num_rounds=8"),
    "data_quantization": ("data_quantization", *QUICK, "--checkpoint_every=5"),
    "dynamic_averaging": ("dynamic_averaging", *QUICK, "--checkpoint_every=20"),
    "approximate_synchronous": (
        "approximate_synchronous",
        *QUICK,
        "--checkpoint_every=10",
    ),
    "split_learning": ("split_learning", *QUICK),
    "split_learning.vertical": ("split_learning.vertical", *QUICK),
    "stream_minibatch": ("stream_minibatch", *QUICK),
    "data_collaboration": ("data_collaboration", *QUICK),
    "data_dispatch": ("data_dispatch", *QUICK),
    "rate_distortion": ("rate_distortion", *QUICK),
}

TOGETHER = {"fed_avg, two processes": 2, "fed_avg, two processes, disk": 2}
"""How many processes share a run, where it is not one."""

ALONE_SECONDS = CONNECT_SECONDS + 2 * HEARTBEAT_SECONDS
"""In which the others end after one was killed, perhaps before they had met."""

TIMED = re.compile(r"(?<!simulated_)(?<!wan_)seconds|per_second|memory|latency")
"""Names of what differs between two runs of one command."""


def untimed(value: Any) -> Any:
    """JSON without what was measured by a clock."""
    if isinstance(value, dict):
        if TIMED.search(str(value.get("name"))):  # a claim on what a clock measured
            return value["name"]
        return {n: untimed(x) for n, x in value.items() if not TIMED.search(n)}
    return [untimed(one) for one in value] if isinstance(value, list) else value


def outcome(workdir: Path) -> dict[str, Any]:
    """All summaries and rows that a command has left, times apart."""
    found = {}
    for path in sorted(workdir.rglob("*.json*")):
        if path.name not in ("summary.json", "metrics.jsonl"):
            continue
        lines = path.read_text().splitlines()
        whole = ["\n".join(lines)] if path.suffix == ".json" else lines
        kept = [untimed(json.loads(text)) for text in whole]
        found[str(path.relative_to(workdir))] = kept
    return found


def same_clock(whole: Path, workdir: Path) -> None:
    """Gives a new directory the measured times, which simulated clocks add."""
    for path in [*whole.rglob(COSTS), *whole.glob("ladder.json")]:
        copy = workdir / path.relative_to(whole)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)


def shares(count: int) -> list[list[str]]:
    """The flags with which each of `count` processes knows the others."""
    if count == 1:
        return [[]]
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{one.getsockname()[1]}"
    both = [f"--coordinator_address={address}", f"--num_processes={count}"]
    return [[*both, f"--process_id={i}"] for i in range(count)]


def start(
    command: tuple[str, ...], workdir: Path, cache: Path, count: int
) -> list[subprocess.Popen]:
    """The command in processes of its own; compiled programs are kept between them."""
    module, *flags = command
    return [
        subprocess.Popen(
            [
                sys.executable,
                *("-m", f"experiments.{module}", f"--workdir={workdir}"),
                *(*flags, *own),
            ],
            cwd=ROOT,
            env={
                **os.environ,
                "JAX_PLATFORMS": "cpu",
                "JAX_COMPILATION_CACHE_DIR": str(cache),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for own in shares(count)
    ]


def finish(command: tuple[str, ...], workdir: Path, cache: Path, count: int) -> float:
    """Runs a command to its end; returns the seconds that it took."""
    started = time.monotonic()
    for process in start(command, workdir, cache, count):
        _, err = process.communicate()
        if process.returncode:
            raise RuntimeError(f"exit {process.returncode}: {err[-2000:]}")
    return time.monotonic() - started


def end_alone(others: list[subprocess.Popen], workdir: Path) -> None:
    """Waits for the processes of a run of which one was killed.

    Raises:
      RuntimeError: if one goes on, or takes a run for finished that is not.
    """
    for process in others:
        try:
            _, err = process.communicate(timeout=ALONE_SECONDS)
        except subprocess.TimeoutExpired:
            for one in others:
                one.kill()
            raise RuntimeError("goes on while another was killed") from None
        if not process.returncode and not (workdir / "summary.json").exists():
            raise RuntimeError(f"ends as if none had been killed: {err[-2000:]}")


def soak(command: tuple[str, ...], kills: int, seed: int, count: int) -> dict[str, Any]:
    """Kills a command so many times, and compares whatever comes to its end."""
    numbers = random.Random(seed)
    done = {"kills": 0, "terminated": 0, "compared": 0, "differing": 0}
    with tempfile.TemporaryDirectory() as folder:
        cache, whole, again, killed = (
            Path(folder, name) for name in ("compiled", "whole", "again", "killed")
        )
        finish(command, whole, cache, count)
        expected = outcome(whole)
        same_clock(whole, again)
        # The second is not compiled, as those that are killed.
        seconds = finish(command, again, cache, count)
        done["differing"] += outcome(again) != expected
        before = 0  # kills of this run
        while done["kills"] < kills or killed.exists():
            if not killed.exists():
                killed.mkdir()
                same_clock(whole, killed)
            processes = start(command, killed, cache, count)
            process, started = numbers.choice(processes), time.monotonic()
            others = [one for one in processes if one is not process]
            if done["kills"] < kills:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=numbers.uniform(0.0, seconds))
                by = signal.SIGTERM if done["kills"] % 4 == 3 else signal.SIGKILL
                ended = process.poll() is not None
                process.send_signal(by)
            else:
                ended = False
            _, err = process.communicate()
            stopped = process.returncode == 143 or "with a checkpoint; the" in err
            if not ended and (stopped or process.returncode in (-9, -15)):
                end_alone(others, killed)
                before += 1
                done["kills"] += 1
                done["terminated"] += stopped
                continue
            for one in others:
                one.wait()
            if process.returncode:
                raise RuntimeError(f"exit {process.returncode}: {err[-2000:]}")
            if not before:  # a whole run tells how long one takes now
                seconds = time.monotonic() - started
            before = 0
            done["compared"] += 1
            done["differing"] += outcome(killed) != expected
            shutil.rmtree(killed)
    return {**done, "seconds": round(seconds, 1)}


def main() -> None:
    """Appends a line of JSON for each command; exits with 1 where one differed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("names", nargs="*", default=list(COMMANDS))
    given = parser.parse_args()
    wrong = 0
    for name in given.names:
        try:
            done = soak(COMMANDS[name], given.kills, given.seed, TOGETHER.get(name, 1))
            row = {"command": name, **done}
            wrong += row["differing"]
        except RuntimeError as error:  # the others are still to be killed
            row, wrong = {"command": name, "error": str(error)}, wrong + 1
        print(json.dumps(row), flush=True)
        with given.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    sys.exit(min(wrong, 1))


if __name__ == "__main__":
    main()
