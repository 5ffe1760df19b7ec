"""Costs of compressors: kept beside a run once it has begun, and read again."""

import json

import jax.numpy as jnp
import pytest

from fedjax_comp.compress import chain, entropy_coded, qsgd, scaled_sign, top_k
from fedjax_comp.hooks import Live
from fedjax_comp.metrics import Ledger
from fedjax_comp.network.codec_cost import fixed_bytes
from fedjax_comp.network.kept_costs import (
    COSTS,
    codecs_of,
    costs_kept,
    read_or_measure,
)
from fedjax_comp.run_directory import RunDirectoryError, open_run, write_json

MODEL = {"w": jnp.ones(64)}
COST = {"flops": 1.0, "bytes": 2.0, "factor": 1.0}


def test_costs_are_measured_once_and_written_when_the_run_begins(tmp_path):
    path = tmp_path / "run" / COSTS
    measured = read_or_measure(path, {"uplink": scaled_sign()}, MODEL)
    assert not list(tmp_path.iterdir())
    live = Live(open_run(path.parent, "test", {}), None, None, Ledger(), None)
    costs_kept(measured).begin(live, None)
    assert read_or_measure(path, {"uplink": top_k(0.5)}, MODEL) == measured
    other = read_or_measure(tmp_path / "other", {"uplink": scaled_sign()}, MODEL)
    costs_kept(other).begin(live, None)  # a resumed run keeps its clock
    assert read_or_measure(path, {}, MODEL) == measured
    codec = codecs_of(measured)["uplink"]
    assert codec.encode[0].flops > 0


@pytest.mark.parametrize("number", [None, 7])
def test_costs_of_another_format_are_refused(tmp_path, number):
    path = tmp_path / COSTS
    path.write_text(json.dumps({"format": number, "links": {}}))
    with pytest.raises(RunDirectoryError, match=r"costs\.json.*--workdir"):
        read_or_measure(path, {}, MODEL)


@pytest.mark.parametrize(
    ("links", "words"),
    [
        ([], "'links' to be an object"),
        ({"uplink": {}}, "two costs of link uplink"),
        ({"uplink": [COST]}, "two costs of link uplink"),
        ({"uplink": [COST, {**COST, "flops": -1.0}]}, "flops=-1.0, a finite"),
        ({"uplink": [COST, {**COST, "bytes": float("inf")}]}, "bytes=inf, a finite"),
        ({"uplink": [COST, {**COST, "more": 1.0}]}, "got 'more'"),
        ({"uplink": [COST, {"flops": 1.0}]}, "a field 'bytes'"),
    ],
)
def test_what_are_no_costs_is_refused(tmp_path, links, words):
    path = tmp_path / COSTS
    path.write_text(json.dumps({"format": 1, "links": links}))
    with pytest.raises(RunDirectoryError, match=words) as error:
        read_or_measure(path, {}, MODEL)
    assert str(path) in str(error.value)


def test_costs_of_another_run_are_taken_if_they_are_of_the_same(tmp_path):
    of = {"uplink": "scaled_sign() of m", "training": "m"}
    links = {"uplink": scaled_sign()}
    given, own = tmp_path / "given.json", tmp_path / "run" / COSTS
    measured = read_or_measure(own, links, MODEL, training=lambda: 9.0, of=of)
    write_json(given, measured)
    taken = read_or_measure(own, links, MODEL, training=lambda: 1.0, of=of, given=given)
    assert taken == measured
    assert taken["training_flops"] == 9.0
    for wanted, words in (
        ({**of, "uplink": "top_k(0.5) of m"}, "'uplink' of top_k.* but scaled_sign"),
        ({**of, "curve": "qsgd(3) of m"}, "no cost 'curve' of qsgd"),
        ({"training": "other"}, "'training' of other, but m"),
    ):
        with pytest.raises(RunDirectoryError, match=words):
            read_or_measure(own, links, MODEL, of=wanted, given=given)
    del measured["training_flops"]
    write_json(given, measured)
    with pytest.raises(RunDirectoryError, match="no cost 'training'"):
        read_or_measure(own, links, MODEL, training=lambda: 1.0, of=of, given=given)


def test_costs_from_before_training_was_counted_are_read(tmp_path):
    path = tmp_path / COSTS
    path.write_text(json.dumps({"format": 1, "links": {"uplink": [COST, COST]}}))
    known = read_or_measure(path, {}, MODEL, training=lambda: 1.0)
    assert "training_flops" not in known
    path.write_text(json.dumps({"format": 1, "links": {}, "training_flops": -1}))
    with pytest.raises(RunDirectoryError, match="cost of training"):
        read_or_measure(path, {}, MODEL)


def test_bytes_are_known_from_shapes_alone_or_not_at_all():
    assert fixed_bytes(scaled_sign(), MODEL) == 64 // 8 + 4
    assert fixed_bytes(chain(qsgd(4), entropy_coded()), MODEL) is None
