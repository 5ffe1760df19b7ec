"""Whose key draws the noise: every message has its own, in every algorithm that sends.

Clients that hold the same examples have the same to say. If all of a cohort drew the
same noise, its mean would keep all of it, and no round would look wrong; so would one
that drew the same in every round. Every case here is also run with either fault planted
in it, so that what differs is known to differ by its key alone.
"""

import sys
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_comp import models
from fedjax_comp.algorithms.consensus import consensus_sgd
from fedjax_comp.algorithms.data_quantization import data_quantization
from fedjax_comp.algorithms.dynamic_averaging import dynamic, periodic
from fedjax_comp.algorithms.fed_avg import fed_avg
from fedjax_comp.algorithms.fed_buff import fed_buff
from fedjax_comp.algorithms.fed_dlr import fed_dlr
from fedjax_comp.algorithms.fed_exp import fed_exp
from fedjax_comp.algorithms.fed_nova import fed_nova
from fedjax_comp.algorithms.fetch_sgd import fetch_sgd
from fedjax_comp.algorithms.graphs import ring
from fedjax_comp.algorithms.marina import marina
from fedjax_comp.algorithms.model_averaging import model_averaging
from fedjax_comp.algorithms.split_learning import split_learning
from fedjax_comp.base import Algorithm, PyTree, make_context
from fedjax_comp.compress import identity, qsgd, random_k, stochastic_quantize
from fedjax_comp.compress.quantize.lattice import uniform_lattice
from fedjax_comp.keys import make_key
from fedjax_comp.models.split import split_classification
from tests.problems import (
    NUM_CLASSES,
    NUM_FEATURES,
    make_cohort,
    softmax_task,
    stack_clients,
)

CLIENTS = 3
TASK = softmax_task()
SPLIT = split_classification(
    models.mlp(64)(NUM_CLASSES),
    ("Dense_1",),
    num_classes=NUM_CLASSES,
    input_shape=(NUM_FEATURES,),
)
SGD = {"client_optimizer": optax.sgd(0.3), "keep_messages": True}


def averaging(trigger, **links):
    return model_averaging(
        TASK, trigger, optimizer=optax.sgd(0.3), keep_messages=True, **links
    )


def splitting(**links):
    # Nothing is learned, so that the turns of one round begin alike.
    return split_learning(
        SPLIT, client_optimizer=optax.sgd(0.0), keep_messages=True, **links
    )


def sketching(**links):
    return fetch_sgd(TASK, **SGD, rows=3, columns=5, k=4, **links)


def quantizing(quantizer, **links):
    return data_quantization(
        TASK,
        quantizer=quantizer,
        num_classes=NUM_CLASSES,
        optimizer=optax.sgd(0.3),
        keep_messages=True,
        **links,
    )


def consenting():
    return consensus_sgd(
        TASK,
        ring(CLIENTS),
        rounds=1,
        optimizer=optax.sgd(0.3),
        compressor=qsgd(4),
        keep_messages=True,
    )


class Case(NamedTuple):
    """An algorithm, and a kind of message that its noise is in.

    Attributes:
      make: a factory of the algorithm. Other links are lossless, so that only this
        kind's noise makes a difference.
      kind: of the message.
      task: what is trained.
    """

    make: Callable[[], Algorithm]
    kind: str
    task: PyTree = TASK


UP = {"uplink": qsgd(64)}
DOWN = {"downlink": stochastic_quantize(levels=16)}
OF_CLIENTS = {
    "fed_avg": Case(lambda: fed_avg(TASK, **SGD, **UP), "uplink"),
    "fed_exp": Case(lambda: fed_exp(TASK, **SGD, **UP), "uplink"),
    "fed_nova": Case(lambda: fed_nova(TASK, **SGD, **UP), "uplink"),
    "fed_buff": Case(
        lambda: fed_buff(TASK, **SGD, **UP, downlink=identity(), max_staleness=2),
        "uplink",
    ),
    "fed_dlr": Case(lambda: fed_dlr(TASK, **SGD, **UP, downlink=identity()), "uplink"),
    "marina": Case(
        lambda: marina(TASK, **SGD, uplink=random_k(0.3), probability=1e-9), "uplink"
    ),
    "periodic averaging": Case(
        lambda: averaging(periodic(), **UP, downlink=identity()), "uplink"
    ),
    "dynamic averaging": Case(
        lambda: averaging(dynamic(0.0), **UP, downlink=identity()), "uplink"
    ),
    "data quantization": Case(
        lambda: quantizing(uniform_lattice(2, low=-4.0, high=4.0)), "uplink"
    ),
    "consensus": Case(consenting, "neighbours"),
    "split learning, up": Case(lambda: splitting(**UP), "activations", SPLIT.task),
    "split learning, down": Case(lambda: splitting(**DOWN), "gradients", SPLIT.task),
}
BROADCASTS = {
    "fed_avg": Case(lambda: fed_avg(TASK, **SGD, **DOWN), "downlink"),
    "fed_nova": Case(lambda: fed_nova(TASK, **SGD, **DOWN), "downlink"),
    "fed_buff": Case(
        lambda: fed_buff(TASK, **SGD, uplink=identity(), **DOWN, max_staleness=2),
        "downlink",
    ),
    "fetch_sgd": Case(lambda: sketching(**DOWN), "downlink"),
    "marina": Case(
        lambda: marina(TASK, **SGD, uplink=random_k(0.3), probability=1e-9, **DOWN),
        "downlink",
    ),
    "periodic averaging": Case(
        lambda: averaging(periodic(), uplink=identity(), **DOWN), "downlink"
    ),
}


def identical_clients():
    """Clients of other ids that hold the same two examples."""
    cohort = make_cohort([2] * CLIENTS, batch_size=2)
    rows = jnp.broadcast_to(cohort.clients.rows[:1], cohort.clients.rows.shape)
    return cohort._replace(clients=cohort.clients._replace(rows=rows))


def rounds_of(case):
    """Two rounds from the same state, `[(server, RoundInfo)] * 2`.

    The state is that after a first round, in which some algorithms have no noise.
    """
    algorithm, cohort = case.make(), identical_clients()
    server, client = algorithm.init(make_key(0), case.task.init(make_key(1)))
    clients = stack_clients(client, CLIENTS)
    step = jax.jit(algorithm.round)
    server, clients, _ = step(make_key(2), server, clients, cohort)
    return [step(make_key(seed), server, clients, cohort)[::2] for seed in (3, 4)]


def as_bytes(payload):
    return b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(payload))


def messages_of(case):
    """What is said in two such rounds, `[2][M]`, as bytes of payloads."""
    said = []
    for _, info in rounds_of(case):
        messages = info.messages[case.kind]
        spoke = np.flatnonzero(messages.spoke)
        each = [jax.tree.map(lambda x, i=i: x[i], messages.payload) for i in spoke]
        said.append([as_bytes(payload) for payload in each])
    return said


def check_clients(case):
    """As many messages as clients, twice, and no two of them alike."""
    first, second = messages_of(case)
    assert len(first) == len(second) == CLIENTS
    assert len(set(first)) == CLIENTS, "clients with the same noise"
    assert not set(first) & set(second), "rounds with the same noise"


def check_rounds(case):
    (first,), (second,) = messages_of(case)
    assert first != second, "rounds with the same noise"


def plant(monkeypatch, faulty):
    """Puts another `make_context` into every algorithm's module."""
    for name, module in list(sys.modules.items()):
        if name.startswith("fedjax_comp.algorithms") and hasattr(
            module, "make_context"
        ):
            monkeypatch.setattr(module, "make_context", faulty)


def one_client(round_key, client_id, rank=None):
    return make_context(round_key, 0 * client_id, rank)


def one_round(round_key, client_id, rank=None):
    return make_context(jax.random.fold_in(make_key(5), 0), client_id, rank)


def some_slow(cases):
    """Planted faults are looked for in fed_avg every time, in all by `make slow`."""
    return [
        pytest.param(one, marks=[] if one == "fed_avg" else [pytest.mark.slow])
        for one in cases
    ]


EVERY_TIME = ("fed_avg", "fed_buff", "consensus", "dynamic averaging")


def mostly_thorough(cases):
    return [
        pytest.param(one, marks=[pytest.mark.thorough] * (one not in EVERY_TIME))
        for one in cases
    ]


@pytest.mark.parametrize("name", mostly_thorough(OF_CLIENTS))
def test_identical_clients_and_rounds_send_different_messages(name):
    check_clients(OF_CLIENTS[name])


@pytest.mark.parametrize("name", mostly_thorough(BROADCASTS))
def test_two_rounds_broadcast_different_messages(name):
    check_rounds(BROADCASTS[name])


@pytest.mark.parametrize("name", some_slow(OF_CLIENTS))
@pytest.mark.parametrize("fault", [one_client, one_round])
def test_a_key_that_clients_or_rounds_share_is_caught(monkeypatch, name, fault):
    plant(monkeypatch, fault)
    what = "clients" if fault is one_client else "rounds"
    with pytest.raises(AssertionError, match=f"{what} with the same noise"):
        check_clients(OF_CLIENTS[name])


@pytest.mark.parametrize("name", some_slow(BROADCASTS))
def test_a_key_that_broadcasts_share_is_caught(monkeypatch, name):
    plant(monkeypatch, one_round)
    with pytest.raises(AssertionError, match="rounds with the same noise"):
        check_rounds(BROADCASTS[name])


@pytest.mark.thorough
def test_a_broadcast_encoded_a_round_ahead_has_a_key_of_its_own(monkeypatch):
    """FedDLR's server keeps what it will say: two rounds end with the same model."""

    def said_next():
        case = Case(lambda: fed_dlr(TASK, **SGD, uplink=identity(), **DOWN), "downlink")
        return [as_bytes(server.broadcast) for server, _ in rounds_of(case)]

    assert len(set(said_next())) == 2
    plant(monkeypatch, one_round)
    assert len(set(said_next())) == 1


def test_sketches_are_hashed_alike_by_design():
    """What the server owes is a sketch as well: clients and rounds share the hash."""
    first, second = messages_of(Case(sketching, "uplink"))
    assert len(first) == CLIENTS
    assert len({*first, *second}) == 1
