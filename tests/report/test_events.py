"""Event files are read back by a reader written here, checksums included.

The format is TFRecord: length (uint64), masked CRC-32C of the length, an `Event`
message, masked CRC-32C of the message, all little-endian.
"""

import math
import struct
from pathlib import Path
from types import SimpleNamespace

import pytest
from tensorboardX.proto.event_pb2 import Event

from fedjax_comp.report import events


def _masked_crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def test_the_reader_knows_a_published_checksum() -> None:
    # RFC 3720, B.4: CRC-32C of 32 zero bytes is 8A9136AA.
    crc = 0x8A9136AA
    masked = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
    assert _masked_crc32c(bytes(32)) == masked


def _events(path: Path) -> list[Event]:
    content, position, events = path.read_bytes(), 0, []
    while position < len(content):
        length, length_crc = struct.unpack_from("<QI", content, position)
        assert _masked_crc32c(content[position : position + 8]) == length_crc
        message = content[position + 12 : position + 12 + length]
        (crc,) = struct.unpack_from("<I", content, position + 12 + length)
        assert _masked_crc32c(message) == crc
        events.append(Event.FromString(message))
        position += 16 + length
    return events


def _scalars(path: Path) -> dict[tuple[str, int], tuple[float, float]]:
    return {
        (value.tag, event.step): (value.simple_value, event.wall_time)
        for event in _events(path)
        for value in event.summary.value
    }


def _written(folder: Path, rows: list[dict]) -> Path:
    with events.Events(folder, rows) as file:
        return file.path


def test_every_number_of_every_row_comes_back(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(events, "time", SimpleNamespace(time=lambda: 1e9 + 3.0))
    rows = [
        {"round": 0, "test_accuracy": 0.125, "train_loss": None, "seconds": 0.0},
        {"round": 5, "test_accuracy": 0.5, "train_loss": math.nan, "seconds": 2.5},
        {"round": 9, "note": "text", "resumed": True, "uplink_bytes": 2**40},
        {"test_accuracy": 0.75, "seconds": 3.0},
    ]
    scalars = _scalars(_written(tmp_path / "new" / "events", rows))
    assert math.isnan(scalars.pop(("train_loss", 5))[0])
    assert scalars == {
        ("test_accuracy", 0): (0.125, 1e9),
        ("seconds", 0): (0.0, 1e9),
        ("test_accuracy", 5): (0.5, 1e9 + 2.5),
        ("seconds", 5): (2.5, 1e9 + 2.5),
        ("uplink_bytes", 9): (2.0**40, 1e9),
    }


@pytest.mark.parametrize("rows", [[], [{"round": 0, "test_accuracy": 0.1}]])
def test_writing_again_replaces(tmp_path, rows) -> None:
    other = tmp_path / "metrics.jsonl"
    other.write_text("kept")
    for length in range(3):
        path = _written(tmp_path, rows * length)
        assert sorted(tmp_path.iterdir()) == sorted([path, other])
    assert len(_scalars(path)) == len(rows)
