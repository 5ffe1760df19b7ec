"""What must hold of every compressor, as functions that raise `AssertionError`.

They are apart from the tests so that `test_compressor_mutations` can show that each one
fails when a compressor is broken on purpose.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp.base import Bits, Compressor, Context, LinkState, PyTree, make_context
from fedjax_comp.wire.accounting import message_bits, num_bits
from fedjax_comp.wire.bitstream import BitWriter
from fedjax_comp.wire.errors import WireError
from fedjax_comp.wire.fields import Coded, fields
from fedjax_comp.wire.message import HEADER_BYTES, from_bytes, to_bytes
from tests.conformance.compressor_bounds import Entry

SHAPE = (4, 4)  # of the leaf on which errors are measured: a vector and a matrix
ROUNDING = 1e-5  # relative, of a few float32 operations on 16 numbers
HINT = "; norms of huge or tiny numbers: fedjax_comp/compress/magnitude.py"


def probe(seed: int) -> PyTree:
    """A tree with a leaf of every kind that has ever broken a compressor."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    return {
        "matrix": normal(6, 5),
        "vector": normal(7),
        "nested": [normal(2, 1, 3), (normal(1),)],
        "scalar": normal(),
        "empty": jnp.zeros((0, 3)),
        "half": normal(3, 4).astype(jnp.bfloat16),
        "count": jnp.asarray(rng.integers(0, 9, 3), jnp.int32),
    }


def square(seed: int = 5) -> jax.Array:
    """A leaf of enough numbers for two draws to differ."""
    x = np.random.default_rng(seed).standard_normal((8, 8))
    return jnp.asarray(x, jnp.float32)


def message(x: jax.Array) -> PyTree:
    """The tree of every check that asks of one leaf only: one program for them all."""
    return {"count": jnp.arange(3, dtype=jnp.int32), "matrix": x}


def context_of(seed: int, client: int = 0) -> Context:
    return make_context(jax.random.key(seed), client)


def send(
    compressor: Compressor, context: Context, tree: PyTree, state: LinkState
) -> tuple[PyTree, PyTree, LinkState]:
    """One message: `(payload, decoded tree, state of both ends)`."""
    payload, sender = compressor.encode(context, tree, state.sender)
    decoded, receiver = compressor.decode(context, payload, state.receiver)
    return payload, decoded, LinkState(sender, receiver)


class Client(NamedTuple):
    """A compressor, and the program of one client, which notes when it is traced.

    Attributes:
      compressor: what `entry.make()` made.
      step: `(context, tree, state) -> (payload, decoded, state, bits)`, jitted.
      traces: one for each time that `step` was traced.
    """

    compressor: Compressor
    step: Callable[[Context, PyTree, LinkState], tuple[PyTree, PyTree, LinkState, Bits]]
    traces: list[int]


@functools.lru_cache(maxsize=4)
def client_of(entry: Entry) -> Client:
    """One program for all checks of an entry that send a `message`."""
    compressor = entry.make()
    traces: list[int] = []

    @jax.jit
    def step(
        context: Context, tree: PyTree, state: LinkState
    ) -> tuple[PyTree, PyTree, LinkState, Bits]:
        traces.append(1)
        payload, decoded, new_state = send(compressor, context, tree, state)
        return payload, decoded, new_state, num_bits(payload)

    return Client(compressor, step, traces)


class Probed(NamedTuple):
    """A compressor, and the program of a message of a leaf of every kind.

    Attributes:
      compressor: what `entry.make()` made.
      roundtrip: `(context, tree, state) -> (payload, decoded, bits)`, jitted.
    """

    compressor: Compressor
    roundtrip: Callable[[Context, PyTree, LinkState], tuple[PyTree, PyTree, Bits]]


@functools.lru_cache(maxsize=4)
def probed(entry: Entry) -> Probed:
    """One program for all checks of an entry that send a `probe`."""
    compressor = entry.make()

    @jax.jit
    def roundtrip(
        context: Context, tree: PyTree, state: LinkState
    ) -> tuple[PyTree, PyTree, Bits]:
        payload, decoded, _ = send(compressor, context, tree, state)
        return payload, decoded, num_bits(payload)

    return Probed(compressor, roundtrip)


def assert_same_bits(actual: PyTree, expected: PyTree, what: str) -> None:
    """Structure, shapes, dtypes and every bit of the leaves."""
    structures = jax.tree.structure(actual), jax.tree.structure(expected)
    assert structures[0] == structures[1], f"{what}: {structures}"
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype, f"{what}: {a.dtype} is not {b.dtype}"
        assert a.shape == b.shape, f"{what}: {a.shape} is not {b.shape}"
        same = np.asarray(a).tobytes() == np.asarray(b).tobytes()
        assert same, f"{what}: {a} is not {b}"


def assert_close(actual: PyTree, expected: PyTree, what: str) -> None:
    """Structure, and every leaf up to the order of float32 operations."""
    structures = jax.tree.structure(actual), jax.tree.structure(expected)
    assert structures[0] == structures[1], f"{what}: {structures}"
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        # A bfloat16 leaf may be rounded to the other side.
        rtol = 2.0**-7 if a.dtype == jnp.bfloat16 else 1e-4
        np.testing.assert_allclose(
            np.asarray(a, np.float64),
            np.asarray(b, np.float64),
            rtol=rtol,
            atol=1e-5,
            err_msg=what,
        )


def check_leaves(entry: Entry) -> None:
    """Shapes and dtypes come back, integers and zeros unchanged, and nothing is NaN."""
    compressor, roundtrip = probed(entry)
    tree = probe(0)
    for given in (tree, {**tree, "vector": jnp.zeros_like(tree["vector"])}):
        _, decoded, _ = roundtrip(context_of(0), given, compressor.init(given))
        assert jax.tree.structure(decoded) == jax.tree.structure(given)
        pairs = zip(jax.tree.leaves(decoded), jax.tree.leaves(given), strict=True)
        for got, sent in pairs:
            assert (got.shape, got.dtype) == (sent.shape, sent.dtype)
            assert bool(np.all(np.isfinite(got))), f"not finite: {got}"
        assert_same_bits(decoded["count"], given["count"], "integers")
    nothing = jax.tree.map(jnp.zeros_like, tree)
    state = compressor.init(nothing)
    _, decoded, _ = roundtrip(context_of(1), nothing, state)
    assert all(not bool(jnp.any(leaf != 0)) for leaf in jax.tree.leaves(decoded)), (
        f"zeros became {decoded}"
    )

    broken = jax.tree.map(
        lambda x: (x * jnp.nan).astype(x.dtype) if x.dtype != jnp.int32 else x, tree
    )
    _, decoded, _ = roundtrip(context_of(2), broken, compressor.init(tree))
    assert jax.tree.structure(decoded) == jax.tree.structure(tree)

    empty: dict[str, jax.Array] = {}
    assert send(compressor, context_of(3), empty, compressor.init(empty))[1] == {}


def check_broken(entry: Entry) -> None:
    """A NaN anywhere in a leaf never decodes to numbers that all look sound.

    The receiver drops an update that is not finite; one whose NaN was cut off, or
    rounded to a level, would be trained on.
    """
    compressor, step, _ = client_of(entry)
    state = compressor.init(message(square()))
    for place in ((0, 0), (1, 2), (7, 7)):
        broken = square().at[place].set(jnp.nan)
        _, decoded, *_ = step(context_of(0), message(broken), state)
        seen = not np.all(np.isfinite(decoded["matrix"]))
        assert seen, f"NaN at {place}: {decoded}"


def check_templates(entry: Entry) -> None:
    """`init` needs shapes only, and gives the same state for them."""
    compressor = entry.make()
    tree = probe(0)
    like = jax.eval_shape(lambda: tree)
    assert_same_bits(compressor.init(like), compressor.init(tree), "init of shapes")


def check_execution(entry: Entry) -> None:
    """vmap over clients gives what the program of one client, run for each, does.

    What a scan repeats is that program; the algorithm battery runs both.
    """
    compressor, step, _ = client_of(entry)
    clients = 3
    trees = [message(square(seed)) for seed in range(clients)]
    contexts = [context_of(7, c) for c in range(clients)]
    state = compressor.init(trees[0])
    one_by_one = [step(*one, state)[1:] for one in zip(contexts, trees, strict=True)]
    expected, *stacked = (
        jax.tree.map(lambda *x: jnp.stack(x), *parts)
        for parts in (one_by_one, contexts, trees)
    )
    vmapped = jax.jit(jax.vmap(step, in_axes=(0, 0, None)))(*stacked, state)[1:]
    assert_close(vmapped, expected, "vmap or one by one")


def check_one_trace(entry: Entry) -> None:
    """New keys, values, budgets and states, the message's own included: one trace."""
    compressor, step, traces = client_of(entry)
    state = compressor.init(message(square()))
    step(context_of(0), message(square()), state)
    before = len(traces)
    for seed in range(3):
        context = context_of(seed, seed)._replace(
            budget_bits=jnp.asarray(100.0 * seed, jnp.float32)
        )
        *_, state, _ = step(context, message(square(seed)), state)
    assert len(traces) == before, f"{len(traces) - before} traces behind the first"


def exact_bits(payload: PyTree) -> int:
    """Bits that the fields write, counted one by one and not rounded up to bytes."""
    total = 0
    for field in fields(payload):
        if isinstance(field, Coded):
            writer = BitWriter()
            field.code.pack(field.field, writer)
            total += writer.num_bits
        else:
            total += message_bits(num_bits(field))
    return total


def check_wire(entry: Entry) -> None:
    """The two laws: what is decoded comes from the paid bytes and from nowhere else.

    Under jit a treedef cannot tell of the data: to put values into it fails. The bytes
    give back the payload bit for bit, and a compressor that never encoded has the same
    program of decoding as the sender, constants included: so it decodes the same bits.
    """
    sender_side, roundtrip = probed(entry)
    receiver_side, template_side = entry.make(), entry.make()
    trees = [probe(seed) for seed in (0, 1)]
    contexts = [context_of(5, 1), context_of(6, 2)]
    state = sender_side.init(trees[0])
    messages = [roundtrip(*one, state) for one in zip(contexts, trees, strict=True)]
    template, _ = jax.eval_shape(
        template_side.encode, contexts[0], trees[0], state.sender
    )
    for payload, _, bits in messages:
        declared = message_bits(bits)
        try:
            on_host = jax.device_get(payload)
            # A log writes them beside the rounds, whose devices it is to leave alone.
            with jax.transfer_guard("disallow_explicit"):
                data = to_bytes(on_host)
            size = HEADER_BYTES + -(-declared // 8)
            assert len(data) == size, f"{len(data)} bytes, {declared} bits declared"
            assert declared == exact_bits(payload), "bits declared are not bits written"
            received = from_bytes(data, template)
        except WireError as error:
            raise AssertionError(f"no message: {error}") from error
        assert_same_bits(received, payload, "payload from bytes")
    fresh = receiver_side.init(trees[0]).receiver
    assert_same_bits(fresh, state.receiver, "the receiver's state")
    # Encoding came first: whatever a decoder keeps of the sender's is in its program.
    arguments = contexts[0], messages[0][0], fresh
    own, other = (
        jax.jit(side.decode).lower(*arguments).as_text()
        for side in (sender_side, receiver_side)
    )
    assert own == other, "the other end decodes by another program"


def inputs() -> dict[str, np.ndarray]:
    """Leaves that single out a compressor's weakness."""
    rng = np.random.default_rng(3)
    sparse = np.zeros(SHAPE)
    sparse[1, 2] = -7.0
    return {
        "gaussian": rng.standard_normal(SHAPE),
        "sparse": sparse,
        "constant": np.full(SHAPE, 0.3),
        "heavy_tailed": rng.standard_cauchy(SHAPE) ** 3,
        "tiny": 1e-30 * rng.standard_normal(SHAPE),
    }


def check_draws(entry: Entry) -> None:
    """Clients of one cohort draw their own noise, in every leaf and every round."""
    compressor = entry.make()
    rng = np.random.default_rng(4)
    x = [jnp.asarray(rng.standard_normal((8, 8)), jnp.float32)] * 2
    state = compressor.init(x)
    decode = jax.jit(lambda context: send(compressor, context, x, state)[1])
    first = decode(context_of(0, client=0))
    others = [
        decode(context_of(0, client=1)),
        decode(context_of(1, client=0)),
        list(reversed(first)),
    ]
    for other in others:
        assert not bool(jnp.all(first[0] == other[0])), "the same noise twice"


def check_shared(entry: Entry) -> None:
    """What is the round's own is common to the cohort and new in the next round."""
    compressor, step, _ = client_of(entry)
    x = message(square())
    state = compressor.init(x)

    def decode(context: Context) -> jax.Array:
        return step(context, x, state)[1]["matrix"]

    first = decode(context_of(0, client=0))
    assert_same_bits(decode(context_of(0, client=1)), first, "another client's")
    assert not bool(jnp.all(first == decode(context_of(1, client=0)))), "last round's"


def check_memory(entry: Entry) -> None:
    """What was lost is sent later: the decoded sum follows the sum of what was due.

    With `||C(y) - y|| <= d ||y||`, `d < 1`, the memory of a constant `x` never exceeds
    `d / (1 - d) ||x||`, and it is all that sums of any length differ by.
    """
    compressor = entry.make()
    x = jnp.asarray(inputs()["gaussian"], jnp.float32)
    rounds = 400

    @jax.jit
    def total(key: jax.Array) -> jax.Array:
        def step(state: LinkState, key: jax.Array) -> tuple[LinkState, jax.Array]:
            _, decoded, state = send(compressor, make_context(key, 0), x, state)
            return state, decoded

        keys = jax.random.split(key, rounds)
        return jnp.sum(jax.lax.scan(step, compressor.init(x), keys)[1], axis=0)

    d = np.sqrt(entry.worst_error(x.size))
    norm = np.linalg.norm(np.asarray(x, np.float64))
    off = np.asarray(total(jax.random.key(0)), np.float64) - rounds * np.asarray(
        x, np.float64
    )
    ceiling = (d / (1 - d) + rounds * ROUNDING) * norm
    assert np.linalg.norm(off) <= ceiling, f"{np.linalg.norm(off)} > {ceiling}"
