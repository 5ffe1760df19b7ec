"""Streams: what the command leaves behind, and how it answers mistakes."""

import json

import jax
import jax.numpy as jnp
import pytest

from experiments.stream_minibatch.run import main
from experiments.stream_minibatch.simulate import added, wide
from tests.experiments.small import mistake, read_runs, without_last_row

SMALL = (
    "--quick",
    "--noprogress",
    "--num_arrivals=4000",
    "--num_trials=2",
    "--dimension=3",
    "--pca=paced: minibatch(32)",
    "--pca=too-fast: minibatch(16, discarded=0, scale=1e12)",
    "--sgd=ring: consensus(ring(4), 32, rounds=2)",
)


@pytest.mark.thorough
def test_the_run_directory_and_resuming(tmp_path, capsys):
    flags = [f"--workdir={tmp_path}", *SMALL]
    main(["", *flags])
    summary = json.loads((tmp_path / "summary.json").read_text())
    rows = [
        json.loads(line)
        for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ]
    paced, fast, ring = rows
    # 32 / (16 * 1.25e5) + 8 / 1e4 seconds, at a million samples a second.
    assert paced["discarded"] == pytest.approx(816 - 32)
    assert paced["minibatches"] == 4000 // 816
    assert paced["curve"][0]["arrived"] == pytest.approx(816)
    # 16 gradients up and the model to 16 nodes, three floats each.
    assert paced["total_bytes"] == paced["minibatches"] * 2 * 16 * 12
    # A run that diverged is a row, and is named.
    assert fast["diverged"]
    assert fast["dropped"] > 0
    assert summary["diverged"] == ["pca, too-fast"]
    assert not ring["diverged"]
    assert ring["messages_per_edge"] == 2 * 2 * ring["minibatches"]
    assert ring["total_bytes"] == 12 * 4 * 4 * ring["minibatches"]
    assert not any(row["reason"] for row in summary["runs"])
    assert len(read_runs(tmp_path)) == 3
    assert all("curve" not in row for row in summary["runs"])
    assert (tmp_path / "report.html").read_text().count("data:image/png") == 2

    capsys.readouterr()
    main(["", *flags])
    assert "nothing was changed" in capsys.readouterr().out
    before = without_last_row(tmp_path)
    main(["", *flags])
    again = json.loads((tmp_path / "summary.json").read_text())
    assert again["runs"] == summary["runs"]
    assert (tmp_path / "metrics.jsonl").read_text().startswith(before)


def test_bytes_between_two_looks_may_be_more_than_a_word_holds():
    each, rounds = 3_000_000_019, 11
    none = jnp.zeros((), jnp.uint32)
    total = jax.lax.fori_loop(
        0, rounds, lambda _, total: added(total, jnp.uint32(each)), (none, none)
    )
    assert wide(jax.tree.map(lambda x: x[None], total)) == each * rounds


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--sgd=a: consensus(edges(4, [(0, 1), (2, 3)]), 4, rounds=1)", "connected"),
        ("--sgd=a: consensus(ring(4), 5, rounds=1)", "batch=5"),
        ("--sgd=a: consensus(ring(4), 4, rounds=0)", "rounds=0"),
        ("--sgd=a: ring(4)", "NAME: RULE"),
        ("--pca=a: minibach(16)", "did you mean 'minibatch'"),
        ("--pca=a: minibatch(16000)", "more than --num_arrivals=4000"),
        ("--pca=paced: minibatch(16)", "names must differ"),
        ("--gap=1.0", "--gap=1.0"),
        ("--arriving_rate=0", "arriving"),
        ("--margin=0", "--margin"),
        ("--num_trials=1", "num_trials"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(tmp_path, capsys, flag, expected):
    assert expected in mistake(main, capsys, [f"--workdir={tmp_path}", *SMALL, flag])
