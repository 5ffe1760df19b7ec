"""The Flower app's loopback: what its proxy counts, and the app itself."""

import importlib.util
import socket

import pytest

from experiments.flower.loopback import Loopback, row_of, run_app
from experiments.flower.proxy import Proxy


def test_a_proxy_counts_every_byte_either_way():
    with socket.create_server(("127.0.0.1", 0)) as server:
        proxy = Proxy(server.getsockname()[1])
        with socket.create_connection(("127.0.0.1", proxy.port)) as client:
            other, _ = server.accept()
            with other:
                client.sendall(bytes(100_000))
                left = 100_000
                while left:
                    left -= len(other.recv(1 << 16))
                other.sendall(bytes(7))
                assert client.recv(100) == bytes(7)
        proxy.close()
    assert (proxy.sent, proxy.received) == (100_000, 7)


def test_a_row_adds_up_the_ledger():
    sent = [
        {"kind": "train", "payload_bytes": 10, "sealed_bytes": 59},
        {"kind": "update", "payload_bytes": 3, "sealed_bytes": 52},
        {"kind": "update", "payload_bytes": 4, "sealed_bytes": 53},
    ]
    results = {"accuracy": [0.1, 0.5], "sent": sent, "refused": []}
    row = row_of("x", 1, Loopback(results, [100, 1], [200, 2], 1.23))
    assert (row["ledger_up"], row["sealed_up"], row["socket_up"]) == (7, 105, 101)
    assert (row["ledger_down"], row["socket_down"]) == (10, 202)


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("flwr") is None, reason="needs the extra flower"
)
def test_a_replay_over_sockets_is_refused_and_the_run_goes_on(tmp_path):
    """Node 0 sends its message of round 1 again in round 2."""
    done = run_app(tmp_path, {"num-server-rounds": 2, "misbehave": "replay"})
    (refused,) = done.results["refused"]
    assert refused["round"] == 2
    assert "replayed" in refused["reason"]
    assert len(done.results["accuracy"]) == 3
    row = row_of("", 2, done)
    assert 0 < row["ledger_up"] < row["sealed_up"] < row["socket_up"]
    assert 0 < row["ledger_down"] < row["sealed_down"] < row["socket_down"]
