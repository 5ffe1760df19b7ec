"""Dispatch: what the command leaves behind, and how it answers mistakes."""

import json

import pytest

from experiments.data_dispatch.run import main
from tests.experiments.small import mistake, read_runs, without_last_row

SMALL = (
    "--quick",
    "--noprogress",
    "--client_optimizer=sgd(0.1)",
    "--large_optimizer=sgd(0.1)",
    "--epochs=2",
    "--num_trials=1",
    "--num_clients=3",
    "--num_train=300",
    "--dispatcher=clusters: clustered()",
    "--dispatcher=clusters-p2: clustered(2)",
)


@pytest.mark.thorough
def test_the_run_directory_and_resuming(tmp_path, capsys):
    flags = [f"--workdir={tmp_path}", *SMALL]
    main(["", *flags])
    summary = json.loads((tmp_path / "summary.json").read_text())
    table = {row["dispatcher"]: row for row in summary["runs"]}
    large = table["one model of 3 machines' size"]
    assert set(table) == {"one model", "clusters", "clusters-p2", large["dispatcher"]}
    # Three linear models; a hidden layer has so many to within half a unit's.
    assert table["clusters"]["parameters"] == 3 * 650
    assert abs(large["parameters"] - 3 * 650) <= (64 + 1 + 10) / 2
    gaps = summary["greedy_gap"]
    assert {(one["copies"], one["sizes"]) for one in gaps} == {
        (copies, sizes) for copies in (1, 2) for sizes in ("usual", "equal")
    }
    assert all(0 <= one["mean_gap"] <= one["largest_gap"] < 0.1 for one in gaps)
    # 64 bytes and a label of four bits for each copy; up to a byte for each machine.
    assert table["one model"]["uplink_bytes"] == 300 * 64 + 150
    assert 0 <= table["clusters"]["uplink_bytes"] - (300 * 64 + 150) <= 3
    assert 0 <= table["clusters-p2"]["uplink_bytes"] - 2 * (300 * 64 + 150) <= 3
    for name, copies in (("clusters", 1), ("clusters-p2", 2)):
        share = copies * 300 / 3
        assert share / 2 <= table[name]["smallest"] <= table[name]["largest"]
        assert table[name]["largest"] <= min(2 * share, 300)
    assert not any(row["reason"] for row in summary["runs"])
    assert len(read_runs(tmp_path)) == 4
    assert (tmp_path / "report.html").read_text().count("data:image/png") == 2

    capsys.readouterr()
    main(["", *flags])
    assert "nothing was changed" in capsys.readouterr().out
    before = without_last_row(tmp_path)
    main(["", *flags])
    assert (
        json.loads((tmp_path / "summary.json").read_text())["runs"] == (summary["runs"])
    )
    assert (tmp_path / "metrics.jsonl").read_text().startswith(before)


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--dispatcher=a: clustered(4)", "replication=4 <= 3 machines"),
        ("--dispatcher=a: randomly(4)", "replication=4 <= 3 machines"),
        ("--dispatcher=a: clustered(largest=0.1)", "past the fair share"),
        ("--dispatcher=clustered()", "NAME: DISPATCHER"),
        ("--dispatcher=a: clusterd()", "did you mean 'clustered'"),
        ("--dispatcher=clusters: randomly()", "names must differ"),
        ("--num_clients=2000", "2000 is more than the 300"),
        ("--num_clients=0", "num_clients"),
        ("--model=top_k(1)", "unknown name"),
        ("extra", "extra"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(tmp_path, capsys, flag, expected):
    assert expected in mistake(main, capsys, [f"--workdir={tmp_path}", *SMALL, flag])
