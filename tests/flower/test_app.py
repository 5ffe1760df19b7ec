"""A Flower app without sockets: messages from strategy to mod and back."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.compress import error_feedback, identity, top_k
from fedjax_comp.flower import compressed, compressing_mod, flower_link
from fedjax_comp.flower.link import OVERHEAD_BYTES
from fedjax_comp.flower.records import KEY, from_record, to_record

app = pytest.importorskip("flwr.app", reason="needs the extra flower")
strategies = pytest.importorskip("flwr.serverapp.strategy")

RUN, NODES = 77, (11, 12, 13)
MODEL = {"b": jnp.zeros(4), "w": jnp.arange(20.0).reshape(5, 4)}


@pytest.fixture(autouse=True)
def identity_of_the_task(monkeypatch):
    """What Flower knows of the process that an app runs in."""
    task = pytest.importorskip("flwr.supercore.task_identity").TaskIdentity
    for name, value in (("_run_id", RUN), ("_node_id", 1), ("_task_id", 1)):
        monkeypatch.setattr(task, name, value)


@functools.cache
def link():
    return flower_link(error_feedback(top_k(0.25)), identity(), MODEL)


class Grid:
    """Of Flower's, what a strategy asks before it sends."""

    def get_node_ids(self):
        return list(NODES)


def trained(message, context):
    """The app: adds its node's number to every weight."""
    model = from_record(message.content["arrays"])
    moved = {name: x + context.node_id for name, x in model.items()}
    metrics = app.MetricRecord({"num-examples": 10})
    content = app.RecordDict({"arrays": to_record(moved), "metrics": metrics})
    return app.Message(content=content, reply_to=message)


def contexts():
    return {node: app.Context(RUN, node, {}, app.RecordDict(), {}) for node in NODES}


def server():
    inner = strategies.FedAvg(fraction_evaluate=1.0)
    return compressed(inner, link())


def asked(strategy, number, arrays, configure="configure_train"):
    """The messages of a round, as they would arrive."""
    made = getattr(strategy, configure)(
        number, to_record(arrays), app.ConfigRecord(), Grid()
    )
    return {message.metadata.dst_node_id: message for message in made}


def answered(strategy, number, arrays, nodes):
    mod = compressing_mod(link())
    messages = asked(strategy, number, arrays)
    return {node: mod(messages[node], nodes[node], trained) for node in NODES}


def test_a_round_moves_by_the_mean_of_what_was_decoded():
    strategy, nodes = server(), contexts()
    replies = answered(strategy, 1, MODEL, nodes)
    assert all(not reply.content.array_records for reply in replies.values())
    arrays, metrics = strategy.aggregate_train(1, replies.values())
    assert not strategy.refused
    assert metrics is not None
    moved = jax.tree.map(lambda x, y: x - y, from_record(arrays), MODEL)
    # One of four coordinates travels, all equal at a node: the first ones.
    assert float(moved["w"].reshape(-1)[0]) == pytest.approx(np.mean(NODES))
    assert np.count_nonzero(np.abs(moved["w"]) > 1e-3) == 5
    # Every byte in the ledger: four leaves' worth of messages of each node both ways.
    up = [one for one in strategy.sent if one.kind == "update"]
    down = [one for one in strategy.sent if one.kind == "train"]
    assert [one.node for one in up] == list(NODES)
    assert sorted(one.node for one in down) == list(NODES)  # in an order of Flower's
    assert all(one.payload_bytes == 24 * 4 for one in down)
    assert all(one.sealed_bytes - one.payload_bytes == OVERHEAD_BYTES for one in up)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("damaged", "damaged on its way"),
        ("replayed", "of round 1, not 2: replayed or late"),
        ("of another node", "of node 12, not 11"),
        ("missing", "not a sealed message"),
        ("doubled", "answered before"),
        ("unweighted", "metrics have other names"),
        ("weighted by nothing", "num-examples=0, not a positive number"),
    ],
)
def test_a_bad_message_is_refused_and_the_round_goes_on(fault, reason):
    strategy, nodes = server(), contexts()
    first = answered(strategy, 1, MODEL, nodes)
    old = first[11].content[KEY]["message"]
    arrays, _ = strategy.aggregate_train(1, first.values())
    replies = answered(strategy, 2, from_record(arrays), nodes)
    bad = replies[11].content
    if fault == "damaged":
        bad[KEY]["message"] = bad[KEY]["message"][:-1] + b"\0"
    elif fault == "replayed":
        bad[KEY]["message"] = old
    elif fault == "of another node":
        bad[KEY]["message"] = replies[12].content[KEY]["message"]
    elif fault == "missing":
        del bad[KEY]
    elif fault == "unweighted":
        bad["metrics"] = app.MetricRecord({"examples": 10})
    elif fault == "weighted by nothing":
        bad["metrics"] = app.MetricRecord({"num-examples": 0})
    heard = [*replies.values()]
    if fault == "doubled":
        again = app.Message(content=bad.copy(), reply_to=asked_again())
        again.content[KEY] = app.ConfigRecord(dict(bad[KEY]))
        heard.append(again)
    arrays, _ = strategy.aggregate_train(2, heard)
    (refused,) = strategy.refused
    assert (refused.round, refused.node) == (2, 11)
    assert reason in refused.reason
    assert arrays is not None
    # The others are in the mean, and in the next round all take part again.
    replies = answered(strategy, 3, from_record(arrays), nodes)
    strategy.aggregate_train(3, replies.values())
    assert len(strategy.refused) == 1


def asked_again():
    """A message that node 11 could answer a second time; the round stays as it is."""
    return app.Message(app.RecordDict(), 11, "train")


def test_memory_moves_only_with_what_counted():
    """A refused update is owed whole; one that counted, less what was decoded."""
    strategy, nodes = server(), contexts()
    replies = answered(strategy, 1, MODEL, nodes)
    content = replies[11].content
    content[KEY]["message"] = content[KEY]["message"][:-1]
    strategy.aggregate_train(1, replies.values())
    messages = asked(strategy, 2, MODEL)
    counted = {node: m.content[KEY]["counted"] for node, m in messages.items()}
    assert counted == {11: -1, 12: 1, 13: 1}
    mod = compressing_mod(link())
    for node in NODES:
        mod(messages[node], nodes[node], trained)
    owed = {node: nodes[node].state[KEY] for node in NODES}
    before = {
        node: [owed[node][f"before {i}"].numpy() for i in range(2)] for node in NODES
    }
    assert not any(x.any() for x in before[11])
    assert sum(np.count_nonzero(x) for x in before[12]) == 24 - 6


def test_all_refused_leaves_the_model():
    strategy, nodes = server(), contexts()
    replies = answered(strategy, 1, MODEL, nodes)
    for reply in replies.values():
        reply.content[KEY]["message"] = b""
    assert strategy.aggregate_train(1, replies.values()) == (None, None)
    assert len(strategy.refused) == 3


def test_an_evaluation_hears_the_model_and_answers_as_it_likes():
    strategy, nodes = server(), contexts()
    messages = asked(strategy, 1, MODEL, "configure_evaluate")

    def evaluated(message, context):
        model = from_record(message.content["arrays"])
        metrics = {"num-examples": 1, "first": float(model["w"][0, 1])}
        content = app.RecordDict({"metrics": app.MetricRecord(metrics)})
        return app.Message(content=content, reply_to=message)

    mod = compressing_mod(link())
    replies = [mod(messages[node], nodes[node], evaluated) for node in NODES]
    assert strategy.aggregate_evaluate(1, replies)["first"] == 1.0


def test_the_mod_lets_other_messages_pass_and_refuses_another_node_s():
    strategy, nodes = server(), contexts()
    messages = asked(strategy, 1, MODEL)
    mod = compressing_mod(link())
    with pytest.raises(ValueError, match="of node 11, not 12"):
        mod(messages[11], nodes[12], trained)
    plain = app.Message(app.RecordDict({"arrays": to_record(MODEL)}), 11, "train")
    reply = mod(plain, nodes[11], trained)
    assert reply.content["arrays"].keys() == MODEL.keys()


def test_a_strategy_of_several_records_is_refused():
    class Two(strategies.FedAvg):
        def configure_train(self, *arguments):
            messages = [*super().configure_train(*arguments)]
            messages[0].content["more"] = to_record(MODEL)
            return messages

    with pytest.raises(ValueError, match="in what Two sends, the model, got 2"):
        asked(compressed(Two(), link()), 1, MODEL)
