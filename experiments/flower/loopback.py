"""A Flower app over real sockets, with compressed messages and without.

    python -m experiments.flower.loopback --workdir=DIR

One SuperLink and three SuperNodes run on loopback, each SuperNode behind a proxy that
counts its bytes. The output has these beside the ledger's count of the same messages.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from absl import app, flags

from experiments.flower.proxy import Proxy
from fedjax_comp.run_directory import Json, write_json

APP = Path(__file__).parent / "app"
ROOT = Path(__file__).resolve().parents[2]
NODES = 3
_START_SECONDS, _RUN_SECONDS = 60, 600


class Loopback(NamedTuple):
    """What a run has left behind.

    Attributes:
      results: what the server app wrote: accuracies, the ledger, refusals.
      sent: bytes that the socket of each node carried to the SuperLink.
      received: and from it.
      seconds: from the start of the run to its end.
    """

    results: Json
    sent: list[int]
    received: list[int]
    seconds: float


def run_app(workdir: Path, config: Mapping[str, str | int]) -> Loopback:
    """Runs the app once.

    Args:
      workdir: for logs, results and Flower's own files; made anew.
      config: the run's configuration, over that of `app/pyproject.toml`.

    Raises:
      RuntimeError: when it does not come to its end, with the last lines of its log.
    """
    shutil.rmtree(workdir, ignore_errors=True)
    workdir.mkdir(parents=True)
    results = workdir / "results.json"
    port = free_port()
    env = _environment(workdir, port)
    with contextlib.ExitStack() as exits:
        serve = ["--insecure", "--host=127.0.0.1", f"--port={port}"]
        serve.append("--disable-runtime-dependency-installation")
        exits.enter_context(_running("flower-superlink", serve, workdir, env))
        _wait_for(port)
        proxies = [Proxy(port) for _ in range(NODES)]
        for i, proxy in enumerate(proxies):
            exits.callback(proxy.close)
            node = ["--insecure", f"--superlink=127.0.0.1:{proxy.port}"]
            node += [f"--port={free_port()}"]
            node += ["--node-config", f"partition-id={i} num-partitions={NODES}"]
            exits.enter_context(
                _running("flower-supernode", node, workdir, env, name=f"node-{i}")
            )
        given = {**config, "results": str(results)}
        words = " ".join(f"{name}={json.dumps(value)}" for name, value in given.items())
        began = time.monotonic()
        arguments = ["run", str(APP), "loopback", "--run-config", words]
        exits.enter_context(_running("flwr", arguments, workdir, env, name="run"))
        while not _written(results):
            if time.monotonic() - began > _RUN_SECONDS:
                raise RuntimeError(f"The app did not end. {_last_lines(workdir)}")
            time.sleep(0.1)
        seconds = time.monotonic() - began
        return Loopback(
            json.loads(results.read_text(encoding="utf-8")),
            [proxy.sent for proxy in proxies],
            [proxy.received for proxy in proxies],
            seconds,
        )


def _written(results: Path) -> bool:
    try:
        json.loads(results.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def _environment(workdir: Path, port: int) -> dict[str, str]:
    home = workdir / "flower"
    home.mkdir()
    connection = f'address = "127.0.0.1:{port}"\ninsecure = true\n'
    text = f'[superlink]\ndefault = "loopback"\n\n[superlink.loopback]\n{connection}'
    (home / "config.toml").write_text(text, encoding="utf-8")
    programs = Path(sys.executable).parent
    return {
        **os.environ,
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "JAX_PLATFORMS": "cpu",
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _wait_for(port: int) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        time.sleep(0.1)
    raise RuntimeError(f"Nothing listens on port {port} after {_START_SECONDS} s.")


@contextlib.contextmanager
def _running(
    program: str,
    arguments: Sequence[str],
    workdir: Path,
    env: Mapping[str, str],
    name: str | None = None,
) -> Iterator[None]:
    """A program of Flower's with its log, ended with all that it started."""
    path = workdir / f"{name or program}.log"
    with path.open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / program), *arguments],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=dict(env),
            start_new_session=True,
        )
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 15)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                process.wait()


def _last_lines(workdir: Path) -> str:
    tails = []
    for path in sorted(workdir.glob("*.log")):
        lines = path.read_text(encoding="utf-8").splitlines()[-3:]
        tails.append(f"{path.name}: {' / '.join(lines)}")
    return " ".join(tails)


def main(argv: Sequence[str]) -> None:
    """Runs both ways, with two numbers of rounds each; writes `loopback.json`."""
    del argv
    workdir = Path(flags.FLAGS.workdir)
    rows = []
    for name, config in (("compressed", {}), ("as Flower sends it", {"uplink": ""})):
        for rounds in flags.FLAGS.rounds:
            folder = workdir / f"{name.replace(' ', '-')}-{rounds}"
            done = run_app(folder, {**config, "num-server-rounds": rounds})
            rows.append(row_of(name, rounds, done))
            print(json.dumps(rows[-1]))
    write_json(workdir / "loopback.json", {"rows": rows})


def row_of(name: str, rounds: int, done: Loopback) -> Json:
    """Bytes of all nodes: the ledger's, those of sealed messages, the socket's."""

    def of(kinds: tuple[str, ...], column: str) -> int:
        sent = done.results["sent"]
        return sum(one[column] for one in sent if one["kind"] in kinds)

    return {
        "name": name,
        "rounds": rounds,
        "accuracy": done.results["accuracy"][-1],
        "ledger_up": of(("update",), "payload_bytes"),
        "sealed_up": of(("update",), "sealed_bytes"),
        "socket_up": sum(done.sent),
        "ledger_down": of(("train",), "payload_bytes"),
        "sealed_down": of(("train",), "sealed_bytes"),
        "socket_down": sum(done.received),
        "seconds": round(done.seconds, 1),
    }


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "For logs and results.", required=True)
    flags.DEFINE_multi_integer("rounds", [5, 15], "Numbers of rounds to run.")
    app.run(main)
