"""Data collaboration: what the command leaves behind, and how it answers mistakes."""

import json

import pytest

from experiments.data_collaboration.flags import define
from experiments.data_collaboration.outcome import claims_of
from experiments.data_collaboration.run import main
from tests.experiments.small import mistake, read_runs, without_last_row

SMALL = (
    "--quick",
    "--noprogress",
    "--client_optimizer=sgd(0.1)",
    "--model=mlp(8)",
    "--num_clients=2",
    "--num_examples=30",
    "--base_clients=2",
    "--base_examples=30",
    "--num_public=60",
    "--num_trials=1",
    "--epochs=4",
)


@pytest.mark.thorough
def test_the_run_directory_and_resuming(tmp_path, capsys):
    flags = [f"--workdir={tmp_path}", *SMALL]
    main(["", *flags])
    summary = json.loads((tmp_path / "summary.json").read_text())
    table = {row["method"]: row for row in summary["runs"]}
    assert set(table) == {
        "collaboration",
        "8-bit",
        "anchors-20",
        "noise",
        "individual",
        "centralised",
        "fed_avg",
    }
    # Two users send 30 x 20 and 100 x 20 floats, and 30 labels of four bits.
    assert table["collaboration"]["uplink_bytes"] == 2 * (4 * 20 * 130 + 15)
    # They get a 20 x 20 map and the model (20 x 8 + 8 + 8 x 10 + 10 floats) back.
    assert table["collaboration"]["downlink_bytes"] == 2 * 4 * (400 + 258)
    assert table["8-bit"]["uplink_bytes"] < table["collaboration"]["uplink_bytes"] / 3
    assert table["individual"]["uplink_bytes"] == 0
    # 64 * 8 + 8 + 8 * 10 + 10 floats, two users, four rounds.
    assert table["fed_avg"]["uplink_bytes"] == 2 * 4 * 4 * 610
    assert not any(row["reason"] for row in summary["runs"])
    # What an upload tells of its inputs; raw data and models are not measured so.
    assert 0 < table["collaboration"]["recovered_cosine"] <= 1
    assert 0 < table["collaboration"]["guessed_cosine"] <= 1
    assert table["collaboration"]["row_epsilon"] is None
    assert table["noise"]["row_epsilon"] > 40
    assert table["fed_avg"]["recovered_cosine"] is None
    assert len(read_runs(tmp_path)) == 7
    assert (tmp_path / "report.html").read_text().count("data:image/png") == 4
    assert (tmp_path / "table.csv").exists()

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
        ("--variant=a: uniform(9)", "NAME: ANCHOR | PRIVATE MAP | COMPRESSOR"),
        ("--variant=a: uniform(99) | pac(3) | identity()", "did you mean 'pca'"),
        ("--variant=a: uniform(99) | pca(31) | identity()", "components=31 <= 30 exam"),
        ("--variant=a: uniform(9) | pca(20) | identity()", "9 rows of the anchor"),
        ("--variant=a: public_sample(99) | pca(20) | identity()", "size=99 <= 60"),
        ("--variant=a: uniform(99) | pca(3) | identity() | 3", "gaussian_rows"),
        ("--dimension=21", "--dimension=21 is more than the 20 components"),
        ("--num_examples=2000", "are needed"),
        ("--dataset=shakespeare", "shakespeare"),
        ("--model=mpl(3)", "did you mean 'mlp'"),
        ("--num_trials=0", "num_trials"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(tmp_path, capsys, flag, expected):
    assert expected in mistake(main, capsys, [f"--workdir={tmp_path}", *SMALL, flag])


def test_claims_are_held_against_the_published_points():
    values = define()
    values(["", "--num_clients=10"])
    row = {"uplink_bytes": 10, "spread": 0.0}

    def at(method, users, examples, accuracy):
        return {
            "method": method,
            "num_clients": users,
            "examples": examples,
            "test_accuracy": accuracy,
            **row,
        }

    table = [at("c", 10, 100, 0.9), at("individual", 10, 100, 0.7)]
    made = {claim["name"]: claim["holds"] for claim in claims_of(table, "c", values)}
    assert all(made.values())
    assert len(made) == 2
    table[0]["test_accuracy"] = 0.92
    made = claims_of(table, "c", values)
    assert [claim["holds"] for claim in made] == [False, True]
