"""The comparison among data centres: what it leaves behind, its log, its mistakes."""

import csv
import json
from collections import Counter

import pytest

from experiments.approximate_synchronous.claims import claims_of
from experiments.approximate_synchronous.outcome import COLUMNS, compare
from experiments.approximate_synchronous.run import main
from fedjax_comp.audit.command import main as verify
from tests.experiments.small import logged_messages, read_runs


@pytest.fixture
def task(tmp_path):
    """A quick comparison of three centres in `tmp_path / "run"`."""
    matrix = tmp_path / "links.csv"
    matrix.write_text("0,5,5\n5,0,1\n5,1,0\n")
    return [
        "approximate_synchronous",
        f"--workdir={tmp_path / 'run'}",
        "--quick",
        "--model=linear()",
        "--num_clients=3",
        f"--bandwidth={matrix}",
        "--target_accuracy=0.2",
        "--noprogress",
    ]


@pytest.mark.thorough
def test_quick_run_leaves_everything_behind(tmp_path, capsys, task):
    flags = [
        *task,
        "--num_updates=12",
        "--eval_every=4",
        "--protocol=synchronous: synchronous()",
        "--protocol=gaia: gaia(0.2, delay=1)",
    ]
    main(flags)
    folder = tmp_path / "run"
    assert read_runs(folder).keys() == {"synchronous", "gaia"}
    summary = json.loads((folder / "summary.json").read_text())
    synchronous, gaia = summary["runs"]
    # 650 numbers of four bytes; each link carries two thirds of them a round.
    assert synchronous["link_bytes"] == pytest.approx(12 * 6 * 2 * 2600 / 3, rel=1e-3)
    assert synchronous["busiest_link_bytes"] == pytest.approx(
        synchronous["link_bytes"] / 6, rel=1e-3
    )
    assert 0 < gaia["significant_share"] < 1
    assert gaia["wan_seconds"] > 12 * 0.1
    assert gaia["worst_centre_accuracy"] <= gaia["mean_centre_accuracy"]
    links = (folder / "gaia" / "link_bytes.csv").read_text().splitlines()
    sent = [[int(v) for v in line.split(",")[1:]] for line in links[1:]]
    assert sum(map(sum, sent)) == pytest.approx(gaia["link_bytes"], abs=1)
    # Every centre's message goes to both others: sent by one and received by another.
    for row in (synchronous, gaia):
        assert row["uplink_bytes"] == row["downlink_bytes"] == row["link_bytes"]
        assert row["total_bytes"] == 2 * row["link_bytes"]
    ledger = json.loads((folder / "gaia" / "summary.json").read_text())
    assert ledger["total_bytes"] == gaia["total_bytes"]
    # What "to the target" means: totals at the first evaluation that has it.
    assert synchronous["updates_to_target"] == 4
    assert synchronous["wan_seconds_to_target"] == pytest.approx(
        synchronous["wan_seconds"] / 3, rel=1e-3
    )
    assert synchronous["wan_seconds_to_target_ratio"] == 1.0
    assert (folder / "report.html").read_text().count("data:image/png") == 2
    with (folder / "table.csv").open(encoding="utf-8") as file:
        assert tuple(next(csv.reader(file))) == ("name", *COLUMNS, "reason")
    main(flags)
    assert "nothing was changed" in capsys.readouterr().out


@pytest.mark.slow
def test_messages_between_centres_are_logged_and_audited(tmp_path, task):
    main(
        [
            *task,
            "--num_updates=4",
            "--protocol=gaia: gaia(0.2, delay=1)",
            "--protocol=fedavg: fed_avg(2)",
            "--protocol=topk: top_k(0.1, steps=4)",
            "--audit_log",
            "--audit_every=1",
        ]
    )
    folder = tmp_path / "run"
    rows = read_runs(folder)
    assert {row["reason"] for row in rows.values()} == {""}
    assert {row["audit_failures"] for row in rows.values()} == {0}
    # In gaia one message a centre and update; else one up and one down a round.
    assert rows["gaia"]["audited_messages"] == 4 * 3
    assert rows["fedavg"]["audited_messages"] == 2 * (3 + 1)
    assert rows["topk"]["audited_messages"] == 1 * (3 + 1)
    assert verify(["verify", str(folder / "gaia")]) == 0
    sent = logged_messages(folder / "gaia" / "audit")
    assert Counter((x.kind, x.sender, x.receiver) for x in sent) == {
        ("updates", f"client {i}", "everyone"): 4 for i in range(3)
    }
    summary = json.loads((folder / "summary.json").read_text())
    names = {claim["name"]: claim["holds"] for claim in summary["claims"]}
    assert names["audited messages that do not decode bit for bit"] is True


def test_a_protocol_that_fails_is_a_row_with_its_reason(tmp_path, task):
    # Valid as an expression, and refused when it meets the data.
    with pytest.raises(SystemExit) as stop:
        main([*task, "--protocol=wrong: synchronous() | shards(100000)"])
    assert stop.value.code == 1
    (row,) = read_runs(tmp_path / "run").values()
    assert row["test_accuracy"] is None
    assert "shards" in row["reason"]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert [claim["holds"] for claim in summary["claims"]] == [False]


def row(name, family, seconds, accuracy, partition="iid()", protocol=None, delay=0):
    return {
        "delay": delay,
        "link_bytes": 100,
        "name": name,
        "family": family,
        "protocol": protocol or name,
        "partition": partition,
        "reason": "",
        "test_accuracy": accuracy,
        "mean_centre_accuracy": accuracy,
        "wan_seconds_to_target": seconds,
        "lan_seconds_to_target": None if seconds is None else seconds / 4,
    }


def test_claims_are_about_the_fastest_and_about_label_skew():
    rows = [
        row("first", "synchronous", 80.0, 0.9),
        row("slow", "gaia", 50.0, 0.9),
        row("fast", "gaia", 32.0, 0.9, delay=2),
        row("top", "top-k", 40.0, 0.9),
        row("late-top", "top-k", 24.0, 0.9, delay=2),
        row("first-skew", "synchronous", 80.0, 0.89, "shards(1)", "first"),
        row("fast-skew", "gaia", None, 0.8, "shards(1)", "fast"),
    ]
    compare(rows)
    failed, faster, against_lan, best, waiting, late, skew = claims_of(rows)
    assert failed["holds"]
    assert (faster["measured"], faster["target"]) == (2.5, 1.8)
    assert (against_lan["measured"], against_lan["holds"]) == (1.6, False)
    # Top-k that may be as late is faster, and what waits is held to what waits.
    assert (best["measured"], best["holds"]) == (0.75, False)
    assert (waiting["measured"], waiting["holds"]) == (0.8, False)
    assert (late["measured"], late["holds"]) == (0.75, False)
    assert "(late-top)" in best["name"]
    assert "delay of 2" in late["name"]
    assert skew["measured"] == pytest.approx(0.1 - 0.01)
    # Nothing can be said of it when the first protocol never reached the target.
    rows[0]["wan_seconds_to_target"] = None
    compare(rows)
    assert [one["name"] for one in claims_of(rows)] == [
        one["name"] for one in (failed, best, waiting, late, skew)
    ]
    # Quick data can bear none of it.
    rows[1]["link_bytes"] = 25
    quick = claims_of(rows, of_paper=False)
    assert [one["measured"] for one in quick] == [0, 4.0]


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--protocol=a: gaia(-0.1)", "initial=-0.1"),
        ("--protocol=a: gaia(0.1, delay=-1)", "delay=-1"),
        ("--protocol=a: giaa(0.1)", "did you mean 'gaia'"),
        ("--protocol=gaia(0.1)", "not of the form"),
        ("--validation_share=2", "--validation_share=2.0 is outside (0, 1)"),
        ("--protocol=a: synchronous() | shards(0)", "shards"),
        ("--protocol=a: fed_avg(7)", "no multiple of the 7 updates"),
        ("--num_clients=5", "--num_clients=5 needs --bandwidth=FILE"),
        ("--bandwidth=/nowhere/to.csv", "/nowhere/to.csv is not a table of numbers"),
        ("--nearest_ratio=70", "nearest=70.0 <= farthest=60.0"),
        ("--target_accuracy=2", "--target_accuracy=2"),
        ("--batch_size=0", "batch_size=0"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, flag, expected):
    with pytest.raises(SystemExit) as stop:
        main(["approximate_synchronous", f"--workdir={tmp_path}", "--quick", flag])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert expected in line
