"""What must hold of every algorithm; each check raises `AssertionError` if it does not.

They are plain functions so that `test_algorithm_mutations.py` can hold them against
algorithms that were broken on purpose.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp import execution as executions
from fedjax_comp.base import (
    EVERYONE,
    SERVER,
    Algorithm,
    Cohort,
    Compressor,
    Execution,
    Messages,
    PyTree,
    RoundInfo,
    Traffic,
)
from fedjax_comp.compress.audit import make_auditor
from fedjax_comp.wire.message import HEADER_BYTES, to_bytes
from fedjax_comp.wire.traffic import sent, whole_bytes
from tests.problems import make_cohort, softmax_task, stack_clients

STRATEGIES = {
    "scanned": executions.scanned(),
    "vmapped": executions.vmapped(),
    "chunked(2)": executions.chunked(2),
    "sharded": executions.sharded(),
}
SIZES = [6, 3, 9]
IDS = [5, 3, 8]
"""Of the cohort's clients: a place in the cohort is not a client."""


class Entry(NamedTuple):
    """An algorithm under test.

    Attributes:
      make: `(execution, keep_messages) -> Algorithm` on `softmax_task()`.
      links: kind to the compressor of its messages.
      executions: those that are held against `scanned`, which all run. Chunks are
        mapped (a client for a row) and shares of a mesh scanned; both are filled up.
        Together they ask all that `vmapped` does, and each is a program to compile, so
        algorithms of one family share them out; dense ones have all.
      unkept: kinds of traffic whose messages are not kept, since no value changes their
        lengths; a test of the algorithm's own holds these against the messages.
    """

    make: Callable[[Execution, bool], Algorithm]
    links: dict[str, Compressor]
    executions: tuple[str, ...] = ("vmapped", "chunked(2)", "sharded")
    unkept: frozenset[str] = frozenset()

    def under(self, *executions: str) -> "Entry":
        """The entry with these executions."""
        return self._replace(executions=executions)


class Outcome(NamedTuple):
    """Everything that rounds leave behind."""

    server: PyTree
    clients: PyTree
    infos: list[RoundInfo]


class Program(NamedTuple):
    """An algorithm and its round under jit, which notes each time it is traced."""

    algorithm: Algorithm
    step: Callable[..., tuple[PyTree, PyTree, RoundInfo]]
    traces: list[int]


@functools.lru_cache(maxsize=8)
def compiled(make: Callable[..., Algorithm], strategy: str = "scanned") -> Program:
    """One program for all checks: their cohorts have the same shapes.

    The scanned one keeps its messages and the others do not, so that where they agree
    messages are seen to change nothing.
    """
    keep_messages = strategy == "scanned"
    algorithm = make(STRATEGIES[strategy], keep_messages)
    traces: list[int] = []

    def counted(*arguments):
        traces.append(1)
        return algorithm.round(*arguments)

    return Program(algorithm, jax.jit(counted), traces)


def run(
    program: Program, cohort: Cohort, *, rounds: int = 2, params: PyTree = None
) -> Outcome:
    """Runs rounds from the start."""
    params = softmax_task().init(jax.random.key(1)) if params is None else params
    server, template = program.algorithm.init(jax.random.key(2), params)
    clients = stack_clients(template, cohort.clients.client_id.shape[0])
    infos = []
    for i in range(rounds):
        server, clients, info = program.step(
            jax.random.key(10 + i), server, clients, cohort
        )
        infos.append(info)
    return Outcome(server, clients, infos)


def check_executions_agree(entry: Entry) -> None:
    """All its strategies compute the same rounds to float tolerance, the same bytes."""
    cohort = make_cohort(SIZES, batch_size=3)
    expected = run(compiled(entry.make), cohort, rounds=1)
    for strategy in entry.executions:
        got = run(compiled(entry.make, strategy), cohort, rounds=1)
        jax.tree.map(_close, got.server, expected.server)
        jax.tree.map(_close, got.clients, expected.clients)
        np.testing.assert_allclose(
            got.infos[0].train_loss, expected.infos[0].train_loss, rtol=1e-5
        )
        ours, theirs = (x.infos[0].traffic for x in (got, expected))
        assert ours.keys() == theirs.keys()
        for kind in ours:
            np.testing.assert_array_equal(ours[kind].spoke, theirs[kind].spoke)
            jax.tree.map(_equal, ours[kind].ends, theirs[kind].ends)
            assert ours[kind].bits.fixed == theirs[kind].bits.fixed


def check_one_trace_and_stable_state(entry: Entry) -> None:
    """Later rounds compile nothing: states keep their structure, shapes and dtypes."""
    program = compiled(entry.make)
    run(program, make_cohort(SIZES, batch_size=3))
    assert len(program.traces) == 1, f"traced {len(program.traces)} times"


def check_bytes(entry: Entry) -> None:
    """The ledger's bytes are those of the messages, which decode from them alone."""
    cohort = make_cohort(SIZES, batch_size=3)
    clients = cohort.clients._replace(client_id=jnp.array(IDS, jnp.int32))
    silent = clients._replace(active=jnp.array([True, False, True]))
    program = compiled(entry.make)
    for each in (clients, silent):
        for info in run(program, cohort._replace(clients=each)).infos:
            assert info.messages.keys() == info.traffic.keys() - entry.unkept
            for kind, messages in info.messages.items():
                audit = make_auditor(entry.links[kind])(messages)
                assert not audit.failures, audit.failures
                _same_messages(info.traffic[kind], messages)


def _same_messages(traffic: Traffic, messages: Messages) -> None:
    """What is paid for is what was sent: lengths, senders and receivers."""
    paid = sent({"": traffic})
    columns = (x.tolist() for x in paid._replace(bits=whole_bytes(paid.bits)))
    counted = list(zip(*columns, strict=True))
    ends = [np.asarray(x).tolist() for x in messages.ends]
    written = []
    for i in np.flatnonzero(messages.spoke).tolist():
        payload = jax.tree.map(lambda x, i=i: x[i], messages.payload)
        size = len(to_bytes(payload)) - HEADER_BYTES
        written.append((size, ends[0][i], ends[1][i]))
    assert {*ends[0], *ends[1]} <= {*IDS, SERVER, EVERYONE}
    if any(receiver == EVERYONE for *_, receiver in written):
        # A broadcast is one message that several clients hear.
        assert {x[:2] for x in counted} == {x[:2] for x in written}
        assert {x[2] for x in counted} <= set(IDS)
    else:
        assert sorted(counted) == sorted(written)


def check_silence(entry: Entry) -> None:
    """A client that takes no part costs nothing and keeps its memory."""
    cohort = make_cohort(SIZES, batch_size=3)
    program = compiled(entry.make)
    before = run(program, cohort, rounds=1)
    idle = cohort._replace(
        clients=cohort.clients._replace(active=jnp.array([True, False, True]))
    )
    server, clients, info = program.step(
        jax.random.key(3), before.server, before.clients, idle
    )
    said, silent = sent(info.traffic), int(idle.clients.client_id[1])
    assert silent not in said.sender.tolist()
    assert set(said.sender[said.sender >= 0].tolist()) == {0, 2}
    jax.tree.map(lambda a, b: _equal(a[1], b[1]), clients, before.clients)
    # What it holds cannot matter either.
    examples = cohort.examples._replace(x=cohort.examples.x.at[SIZES[0]].set(jnp.inf))
    broken = idle._replace(examples=examples)
    other = program.step(jax.random.key(3), before.server, before.clients, broken)
    jax.tree.map(_equal, other[0], server)


def check_broken_client(entry: Entry) -> None:
    """A client with a non-finite update is dropped and counted, and nothing is NaN."""
    cohort = make_cohort(SIZES, batch_size=3)
    x = cohort.examples.x.at[SIZES[0]].set(jnp.inf)
    broken = cohort._replace(examples=cohort.examples._replace(x=x))
    outcome = run(compiled(entry.make), broken)
    for leaf in jax.tree.leaves((outcome.server, outcome.clients)):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            assert np.isfinite(leaf).all()
    for info in outcome.infos:
        assert int(info.dropped) == 1
        assert np.isfinite(info.train_loss)


def check_half_precision(entry: Entry) -> None:
    """Half-precision parameters learn as float32 ones do, and stay what they are.

    The weights alone, 72,000 examples, are beyond float16.
    """
    cohort = make_cohort(SIZES, batch_size=3)
    heavy = 4_000 * cohort.clients.num_examples
    cohort = cohort._replace(clients=cohort.clients._replace(num_examples=heavy))
    drawn = softmax_task().init(jax.random.key(1))
    halves = {"bias": jnp.float16, "kernel": jnp.bfloat16}
    half = {name: drawn[name].astype(dtype) for name, dtype in halves.items()}
    single = {name: x.astype(jnp.float32) for name, x in half.items()}

    algorithm = entry.make(STRATEGIES["scanned"], False)
    own = Program(algorithm, jax.jit(algorithm.round), [])
    got = run(own, cohort, rounds=1, params=half)
    expected = run(compiled(entry.make), cohort, rounds=1, params=single)
    before, after = algorithm.params(expected.server), algorithm.params(got.server)
    assert {name: x.dtype for name, x in after.items()} == halves
    errors = [np.abs(np.float32(after[name]) - before[name]) for name in halves]
    # A random level may fall to the other side of a number that is rounded.
    assert sum(int((error > 0.01).sum()) for error in errors) <= 1, errors
    assert int(got.infos[0].dropped) == 0


CHECKS = {
    "executions agree": check_executions_agree,
    "one trace": check_one_trace_and_stable_state,
    "bytes": check_bytes,
    "silence": check_silence,
    "broken client": check_broken_client,
    "half precision": check_half_precision,
}


def _close(a: jax.Array, b: jax.Array) -> None:
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def _equal(a: jax.Array, b: jax.Array) -> None:
    np.testing.assert_array_equal(a, b)
