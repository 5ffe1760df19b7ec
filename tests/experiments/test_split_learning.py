"""The comparison of split learning: what it leaves behind, and its mistakes."""

import csv
import json
import re
from collections import Counter

import numpy as np
import pytest

from experiments.split_learning import published, vertical
from experiments.split_learning.claims import claims_of
from experiments.split_learning.leakage import distance_correlation
from experiments.split_learning.methods import METHODS
from experiments.split_learning.outcome import COLUMNS
from experiments.split_learning.recovery import recover
from experiments.split_learning.run import main
from fedjax_comp.audit.keys import load_verifier
from fedjax_comp.audit.log import FOLDER, PUBLIC_KEY
from fedjax_comp.audit.verify import verify_run
from fedjax_comp.experiment.comparison import Results
from fedjax_comp.one_shot import collusion
from tests.experiments.small import logged_messages, read_runs

SMALL = ["--dataset=digits", "--model=mlp(4, 3)", "--num_train=60", "--noprogress"]


@pytest.mark.thorough
def test_runs_leave_everything_behind(tmp_path, capsys):
    flags = [
        f"--workdir={tmp_path}",
        *SMALL,
        "--quick",
        "--num_rounds=1",
        "--audit_every=1",
        "--batch_size=10",
        "--num_clients=3",
        "--leakage_examples=20",
        '--method=split: vanilla("Dense_1")',
        "--method=fedavg: fed_avg()",
    ]
    main(["split_learning", *flags])
    summary = json.loads((tmp_path / "summary.json").read_text())
    split, averaging = summary["runs"]
    assert read_runs(tmp_path).keys() == {"split-3", "fedavg-3"}
    # Six batches of ten examples with four activations each; labels of four bits with
    # a count of four; the weights of the first layer three times.
    weights = 4 * (64 * 4 + 4)
    assert split["downlink_bytes"] == 6 * 10 * 4 * 4 + 3 * weights
    assert split["uplink_bytes"] == split["downlink_bytes"] + 6 * (4 * 10 + 4 + 4) // 8
    assert split["handover_megabytes"] == pytest.approx(2 * weights / 1e6)
    assert averaging["downlink_bytes"] == 3 * 4 * (260 + 15 + 40)
    assert 0 < split["client_gigaflops"] < averaging["client_gigaflops"]
    # Activations and gradients of six batches, and three hand-overs each way.
    assert split["audited_messages"] == 6 + 6 + 3 + 3
    assert split["audit_failures"] == 0
    # Messages of .02 s, 10 and 50 Mbit/s, 10**10 operations a second, in turns.
    waiting = 0.02 * (6 * 2 + 3 * 2)
    sending = 8e-6 * (split["uplink_bytes"] / 10 + split["downlink_bytes"] / 50)
    work = 3 * split["client_gigaflops"] / 10
    assert split["seconds"] == pytest.approx(waiting + sending + work)
    own = 8e-6 * averaging["uplink_bytes"] / 3 * (1 / 10 + 1 / 50)
    work = averaging["client_gigaflops"] / 10
    assert averaging["seconds"] == pytest.approx(0.04 + own + work)
    assert 0 < split["recovered_cosine"] <= 1
    assert split["distance_correlation"] == pytest.approx(
        summary["leakage"][0]["trained"]
    )
    assert averaging["recovered_cosine"] is None
    cuts = [row["cut"] for row in summary["leakage"]]
    assert cuts == ["Dense_1", "Dense_2"]
    assert all(0 < row["trained"] <= 1 for row in summary["leakage"])
    held = {claim["name"]: claim["holds"] for claim in summary["claims"]}
    assert all(holds for name, holds in held.items() if "CIFAR" in name)
    crosses = "ResNet-50, CIFAR-100: clients at which the curves cross, "
    assert held[crosses + "above 100"]
    assert held[crosses + "at most 500"]
    assert len(held) == len(summary["claims"])
    for one in summary["claims"]:  # What no run could fail is told from what was found.
        assert one.get("by_construction", False) == (
            "CIFAR" in one["name"] or "published figures" in one["name"]
        )
    # As the README tells them.
    figures = {k: round(x) for k, x in summary["at_published_sizes"].items()}
    assert figures == {"crossover_clients": 198, "work_ratio": 135}
    assert (tmp_path / "report.html").read_text().count("data:image/png") == 4
    with (tmp_path / "table.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert tuple(table[0]) == ("name", *COLUMNS, "reason")
    assert [line["name"] for line in table] == ["split-3", "fedavg-3"]
    main(["split_learning", *flags])
    assert "nothing was changed" in capsys.readouterr().out
    # More rounds go on from the last, which was a checkpoint.
    main(["split_learning", *flags, "--num_rounds=2"])
    longer = json.loads((tmp_path / "summary.json").read_text())["runs"]
    assert [row["reason"] for row in longer] == ["", ""]
    assert longer[0]["uplink_bytes"] == 2 * split["uplink_bytes"]


@pytest.mark.thorough
@pytest.mark.parametrize("batches", [1, 2])
def test_the_log_says_who_sent_what_and_which_way(tmp_path, batches):
    flags = [
        f"--workdir={tmp_path}",
        *SMALL,
        "--num_rounds=1",
        "--audit_log",
        "--batch_size=20",
        f"--num_train={60 * batches}",
        "--num_clients=3",
        "--leakage_examples=0",
        '--method=split: vanilla("Dense_1")',
    ]
    main(["split_learning", *flags])
    (split,) = json.loads((tmp_path / "summary.json").read_text())["runs"]
    assert not split["reason"]
    assert split["audited_messages"] == 0
    entries = logged_messages(tmp_path / "split-3" / "audit")
    ways = Counter((x.kind, x.sender, x.receiver) for x in entries)
    expected = Counter()
    for client in ("client 0", "client 1", "client 2"):
        expected["activations", client, "server"] = batches
        expected["gradients", "server", client] = batches
        expected["weights_down", "server", client] = 1
        expected["weights_up", client, "server"] = 1
    assert ways == expected
    assert not verify_run(
        tmp_path / "split-3",
        load_verifier(str(tmp_path / "split-3" / FOLDER / PUBLIC_KEY)),
    ).faults


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ('--method=a: vanilla("Dense_9")', "Dense_9.*there are Dense_1, Dense_2"),
        ('--method=a: vanilla("Dense_1", no_peek=-1)', "no_peek=-1"),
        ('--method=a: vanila("Dense_1")', "did you mean 'vanilla'"),
        ("--method=vanilla()", "not of the form"),
        ("--method=a: large_batch(0, rate=1.0)", "steps=0"),
        (
            '--method=a: vanilla("Dense_1") | scaled_sign() | scaled_sgn()',
            "did you mean 'scaled_sign'",
        ),
        ("--num_clients=61", "more than there are training examples, 60"),
        ("--num_clients=0", "at least 1"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, flag, expected):
    with pytest.raises(SystemExit) as stop:
        main(
            [
                "split_learning",
                f"--workdir={tmp_path}",
                *SMALL,
                "--method=a: fed_avg()" if "clients" in flag else "--num_clients=2",
                flag,
            ]
        )
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert re.search(expected, line), line


def test_shapes_at_the_published_sizes():
    sizes = published.resnet_sizes()
    assert sizes.activations == 32 * 32 * 88
    # A batch: activations both ways, labels of seven bits and a count.
    assert sizes.batch_bytes == 100 * (2 * 4 * sizes.activations) + -(-707 // 8)
    few, many = (published.gigabytes(sizes, count)["split"] for count in (100, 500))
    assert 4.9 < few / many <= 5.0  # one fifth of the examples, the same weights
    assert 100 < published.crossover(sizes) < 500
    assert len(METHODS) == 5


def test_inputs_come_back_from_what_determines_them():
    rng = np.random.default_rng(0)
    x = 1 + rng.normal(size=(80, 6))
    half = rng.normal(size=(6, 3))
    mixed = rng.normal(size=(6, 9))
    full = recover(x[:60], x[:60] @ mixed, x[60:], x[60:] @ mixed)
    part = recover(x[:60], x[:60] @ half, x[60:], x[60:] @ half)
    nothing = recover(x[:60], np.ones((60, 2)), x[60:], np.ones((20, 2)))
    assert full.cosine == pytest.approx(1, abs=1e-4)
    assert full.cosine > part.cosine > nothing.cosine
    assert nothing.cosine == pytest.approx(nothing.guessed)
    assert nothing.guessed == pytest.approx(
        collusion.mean_cosine(x[60:], x[:60].mean(0))
    )


def test_claims_of_a_defence_are_of_runs_that_differ_in_it():
    def row(method, accuracy, cosine):
        own = {"method": method, "num_clients": 9, "reason": "", "seconds": 1.0}
        own |= {"client_megabytes": 1.0, "uplink": "identity()"}
        told = {"test_accuracy": accuracy, "recovered_cosine": cosine}
        return {**own, **told, "downlink": "identity()"}

    rows = [
        row('vanilla("Conv_1")', 0.9, 0.8),
        row('vanilla("Dense_1")', 0.9, 0.3),
        row('vanilla("Conv_1", no_peek=0.5)', 0.88, 0.7),
    ]
    told = {one["name"]: one["holds"] for one in claims_of(rows)}
    word = "9 clients, cut before Conv_1: no_peek=0.5 "
    assert told[word + "takes something from the recovered cosine"]
    assert not told[word + "costs at most a point of accuracy"]
    assert sum("no_peek" in name for name in told) == 2
    assert not any("no_peek" in one["name"] for one in claims_of(rows, quick=True))


def test_distance_correlation_by_its_definition():
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(2, 150, 2))

    def by_definition(x, y):
        matrices = []
        for values in (x, y):
            d = np.array([[np.linalg.norm(a - b) for b in values] for a in values])
            matrices.append(d - d.mean(0)[None] - d.mean(1)[:, None] + d.mean())
        a, b = matrices
        return np.sqrt((a * b).mean() / np.sqrt((a**2).mean() * (b**2).mean()))

    y = x**2 + 0.1 * noise  # uncorrelated with x, and far from independent
    assert distance_correlation(x, y) == pytest.approx(by_definition(x, y), rel=1e-9)
    assert distance_correlation(x, y) > 2 * distance_correlation(x, noise)
    turned = x @ np.array([[0.6, 0.8], [-0.8, 0.6]]) * 3 + 1
    assert distance_correlation(x, turned) == pytest.approx(1)
    assert distance_correlation(x, np.ones(150)) == 0


@pytest.mark.slow
def test_vertical_quick_run(tmp_path, raw_data_dir):
    vertical.main(
        [
            "vertical",
            f"--workdir={tmp_path}",
            f"--raw_dir={raw_data_dir}",
            "--quick",
            "--noprogress",
            "--num_rounds=3",
            "--num_clients=2",
            "--audit_every=3",
            "--audit_log",
        ]
    )
    summary = json.loads((tmp_path / "summary.json").read_text())
    together, alone, compressed = summary["runs"]
    assert together == read_runs(tmp_path)["holders-2"]
    # 456 patients in 15 batches of 32, two holders of 8 outputs, three epochs.
    assert together["uplink_bytes"] == 3 * 15 * 2 * 32 * 8 * 4
    assert alone["uplink_bytes"] * 2 == together["uplink_bytes"]
    assert compressed["uplink_bytes"] < together["uplink_bytes"] / 5
    assert together["test_accuracy"] > together["majority"] + 0.2
    assert all(run["audit_failures"] == 0 for run in summary["runs"])
    logs = sorted(tmp_path.glob("*/audit"))
    assert len(logs) == 3
    for log in logs:
        entries = logged_messages(log)
        ways = Counter((x.kind, x.sender, x.receiver) for x in entries)
        holders = {"activations": range(2), "gradients": range(2)}
        assert len(ways) in (2, 4)  # one holder alone, or two
        for (kind, *ends), count in ways.items():
            name, holder = kind.split("_")
            client = f"client {int(holder)}"
            assert int(holder) in holders[name]
            way = (client, "server") if name == "activations" else ("server", client)
            assert (tuple(ends), count) == (way, 3 * 15)


def test_vertical_claims_are_of_holders_together_and_alone():
    def row(name, count, blocks, accuracy):
        own = {"name": name, "num_clients": count, "blocks": blocks, "reason": ""}
        return {**own, "test_accuracy": accuracy}

    def claims(*accuracies):
        named = (("holders-1", 1, 1), ("holders-5", 5, 5), ("alone-5", 5, 1))
        both = zip(named, accuracies, strict=True)
        rows = [row(*one, accuracy) for one, accuracy in both]
        made = vertical.claims(Results(None, rows, [], None))
        return [(one["measured"], one["holds"]) for one in made]

    assert claims(0.99, 0.98, 0.9) == [(0, True), (0.01, True), (0.08, True)]
    # Whoever is as accurate as its first holder by itself gained nothing.
    assert claims(0.99, 0.9, 0.9) == [(0, True), (0.09, False), (0.0, False)]


def test_vertical_mistakes(tmp_path, raw_data_dir, capsys):
    for flag, expected in (
        ("--num_clients=31", "wdbc has 30 columns"),
        ("--num_clients=2 --num_clients=2", "names must differ"),
        ("--dataset=digits", "dataset"),
        ("--uplink=error_feedback(scaled_sign)", "scaled_sign"),
    ):
        with pytest.raises(SystemExit) as stop:
            vertical.main(
                [
                    "vertical",
                    f"--workdir={tmp_path}",
                    f"--raw_dir={raw_data_dir}",
                    *flag.split(),
                ]
            )
        assert stop.value.code == 2
        assert expected in capsys.readouterr().err
