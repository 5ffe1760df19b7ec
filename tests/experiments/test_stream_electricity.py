"""The electricity market as a stream: what is tested, what is learned, what is left."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.stream_minibatch import electricity
from experiments.stream_minibatch.electricity import Stream, baselines, define, follow
from experiments.stream_minibatch.rules import consensus, minibatch
from fedjax_comp.algorithms.graphs import ring
from fedjax_comp.compress import identity
from tests.experiments.small import mistake, read_runs


def flags_with(*texts):
    values = define()
    values(["", *texts])
    return values


def small_stream(length=200, seed=0):
    rng = np.random.default_rng(seed)
    x = np.concatenate([rng.normal(size=(length, 2)), np.ones((length, 1))], axis=1)
    y = (x[:, 0] - 0.5 * x[:, 1] + 0.3 * rng.normal(size=length) > 0).astype(int)
    return Stream(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.int32))


@pytest.mark.parametrize("discarded", [0.0, 2.5])
def test_it_tests_what_arrives_and_then_learns_from_what_it_may(discarded):
    stream, batch, step = small_stream(), 8, 0.5
    rule = minibatch(batch, nodes=2, rounds=0, discarded=discarded)
    told, cost = follow(rule, stream, step, flags_with())
    x, y = np.asarray(stream.x, np.float64), np.asarray(stream.y)
    w, expected = np.zeros(3), []
    total = int(len(y) // (batch + discarded))
    for t in range(total):
        first, after = (i * batch + int(i * discarded) for i in (t, t + 1))
        expected += [*((x[first:after] @ w > 0) == (y[first:after] > 0))]
        own = slice(first, first + batch)
        rate = 1 / (1 + np.exp(-x[own] @ w))
        w -= step * x[own].T @ (rate - y[own]) / batch
    assert cost["minibatches"] == total
    # Two gradients up and a model to each of two nodes, of three floats.
    assert cost["total_bytes"] == total * 4 * 12
    assert len(told) == len(expected)
    assert np.mean(told != np.array(expected, float)) < 0.01  # ties of float32


def test_nodes_with_models_of_their_own_are_told_by_their_mean():
    rule = consensus(ring(4), 8, rounds=1, discarded=0.0)
    told, _ = follow(rule, small_stream(), 0.5, flags_with())
    assert set(np.unique(told)) <= {0.0, 0.25, 0.5, 0.75, 1.0}
    assert told[100:].mean() > 0.7


def test_every_message_has_noise_of_its_own():
    keys = []

    def encode(context, tree, sender):
        words = jax.random.key_data(context.client_key)
        jax.debug.callback(lambda found: keys.append(tuple(found.tolist())), words)
        return identity().encode(context, tree, sender)

    heard = identity()._replace(encode=encode)
    rule = minibatch(8, nodes=2, discarded=0.0, compressor=heard)
    follow(rule, small_stream(), 0.5, flags_with())
    jax.effects_barrier()
    assert len(keys) == len(set(keys)) == 2 * 200 // 8


def test_baselines_know_nothing_of_what_they_tell():
    y = np.array([1, 1, 0, 0, 0, 1])
    told = baselines(y)
    assert told["no change"].tolist() == [0, 1, 0, 1, 1, 0]
    # Ones, then a tie (which is 0), then zeros are more.
    assert told["majority"].tolist() == [0, 1, 0, 0, 1, 0]


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--rule=a: minibatch(16000)", "more than the first 0.125"),
        ("--rule=a: consensus(ring(4), 5, rounds=1)", "batch=5"),
        ("--rule=majority: minibatch(16)", "measured anyway"),
        ("--step=0", "step"),
        ("--blocks=1", "blocks"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, raw_data_dir, flag, expected):
    flags = [f"--workdir={tmp_path}", f"--raw_dir={raw_data_dir}", flag]
    assert expected in mistake(electricity.main, capsys, flags)


def test_the_command_leaves_its_blocks_behind(tmp_path, raw_data_dir):
    flags = [f"--workdir={tmp_path}", f"--raw_dir={raw_data_dir}", "--noprogress"]
    own = ["--rule=B-160: minibatch(160, discarded=0)", "--step=1", "--step=3"]
    electricity.main(["", *flags, *own])
    rows = read_runs(tmp_path)
    assert list(rows) == ["no change", "majority", "B-160"]
    # Known of this stream: the label persists (Zliobaite 2013: about 85 %).
    assert rows["no change"]["test_accuracy"] == pytest.approx(0.853, abs=0.005)
    assert rows["B-160"]["step"] in (1, 3)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    blocks = json.loads(lines[-1])["blocks"]
    assert len(blocks) == 10
    assert np.mean(blocks) == pytest.approx(rows["B-160"]["test_accuracy"], abs=0.01)
