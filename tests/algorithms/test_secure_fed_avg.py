"""A sum under masks in a run: that in the clear, what is sent, what is caught."""

import importlib
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_comp.algorithms.secure_fed_avg import masked_link, secure_fed_avg
from fedjax_comp.base import make_context
from fedjax_comp.client.sgd import local_sgd
from fedjax_comp.compress import (
    common_range,
    error_feedback,
    identity,
    random_k,
    top_k,
)
from fedjax_comp.compress.audit import make_auditor
from fedjax_comp.compress.magnitude import clip_by_l2
from fedjax_comp.privacy import secure_setting, secure_sum
from fedjax_comp.privacy.integers import integer_grid, to_integers
from fedjax_comp.privacy.secure_sum import Step
from fedjax_comp.privacy.traced_noise import ClientNoise, client_noise
from fedjax_comp.wire.traffic import totals
from tests.problems import make_cohort, softmax_task, stack_clients

# Its package offers the function under the same name.
module = importlib.import_module("fedjax_comp.algorithms.secure_fed_avg")

SIZES = [6, 3, 9, 4, 5]
N = 18


def run_round(uplink, cohort, *, rounds=1, **own):
    algorithm = secure_fed_avg(
        softmax_task(),
        client_optimizer=optax.sgd(0.3),
        uplink=uplink,
        keep_messages=True,
        **own,
    )
    params = softmax_task().init(jax.random.key(1))
    server, template = algorithm.init(jax.random.key(2), params)
    clients = stack_clients(template, len(cohort.clients.active))
    step = jax.jit(algorithm.round)
    for i in range(rounds):
        before = server, clients
        server, clients, info = step(jax.random.key(10 + i), *before, cohort)
    return before, (server, clients), info


def broken(cohort, client):
    """The cohort with one client, not the first, whose update will not be finite."""
    row = sum(SIZES[:client])
    x = cohort.examples.x.at[row].set(jnp.inf)
    return cohort._replace(examples=cohort.examples._replace(x=x))


def clear_integers(uplink, cohort, params, info, grid):
    """What each client would send without masks, int64 `[C, n]`, one by one."""
    train = local_sgd(softmax_task(), optax.sgd(0.3))
    sender = uplink.init(params).sender

    def one(context, batches):
        local, _ = train(params, cohort.examples, batches)
        payload, _ = uplink.encode(context, optax.tree.sub(local, params), sender)
        key = jax.random.fold_in(context.client_key, module._ROUNDING)
        return to_integers(key, payload, grid)

    vectors = jax.jit(jax.vmap(one))(info.messages["uplink"].context, cohort.clients)
    return np.asarray(vectors, np.int64)


RANGE = common_range(255, limit=0.5)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("uplink", "own", "gone"),
    [
        (RANGE, {}, ()),
        (identity(), {"levels": 1023, "limit": 0.5}, (1, 4)),
        (random_k(0.5, shared=True), {"levels": 255, "limit": 1.0}, (2,)),
    ],
)
def test_the_sum_is_that_in_the_clear_bit_for_bit(uplink, own, gone):
    """With nobody, two and one gone before they sent; threshold 3 of 5."""
    cohort = make_cohort(SIZES, batch_size=3)
    sound = cohort
    for client in gone:
        cohort = broken(cohort, client)
    before, after, info = run_round(uplink, cohort, threshold=3, **own)
    grid = integer_grid(own["levels"], limit=own["limit"]) if own else None
    params = before[0].model.params
    vectors = clear_integers(uplink, sound, params, info, grid)
    spoke = np.asarray(info.messages["uplink"].spoke)
    assert np.flatnonzero(~spoke).tolist() == list(gone)
    total = vectors[spoke].sum(0)
    # What the server saw, from the bytes of the messages alone.
    masked = info.messages["uplink"].payload
    bits = masked.cardinality.bit_length() - 1
    left = module.left_over(
        jax.random.fold_in(jax.random.split(jax.random.key(10))[1], module._MASKS),
        jnp.asarray(spoke),
        jnp.ones(5, bool),
        vectors.shape[1] + 1,
        bits=bits,
    )
    residues = np.asarray(masked.values, np.uint64)[spoke].sum(0) - np.asarray(left)
    seen = residues.astype(np.int64) % (1 << bits)
    expected = np.append(total, spoke.sum()) % (1 << bits)
    np.testing.assert_array_equal(seen, expected)
    # And what it went on with: the decoded sum over those who are in it.
    context = make_context(jax.random.split(jax.random.key(10))[1], 0)
    template = module.payload_like(uplink, params)
    payload = module.from_integers(total, template, grid)
    decoded, _ = uplink.decode(context, payload, uplink.init(params).receiver)
    moved = optax.tree.sub(after[0].model.params, params)
    for got, whole in zip(
        jax.tree.leaves(moved), jax.tree.leaves(decoded), strict=True
    ):
        np.testing.assert_allclose(got, np.asarray(whole) / spoke.sum(), atol=1e-6)
    assert int(info.dropped) == len(gone)
    assert float(info.observed["lost_sums"].value) == 0


def test_masked_words_tell_nothing_alone():
    """Two runs of one cohort whose data differ: each word differs by a random one."""
    cohort = make_cohort(SIZES, batch_size=3)
    uplink = RANGE
    _, _, info = run_round(uplink, cohort)
    payload = info.messages["uplink"].payload
    assert payload.cardinality == 1 << 11  # 5 clients of [-127, 127], and a sign
    vectors = clear_integers(
        uplink, cohort, softmax_task().init(jax.random.key(1)), info, None
    )
    masks = (np.asarray(payload.values)[:, :-1] - vectors) % (1 << 11)
    # 90 words of 11 bits: the mean of uniform ones is within 5.3 of its deviations
    # but for one time in 1e7.
    room = 5.3 * (1 << 11) / np.sqrt(12 * masks.size)
    assert abs(masks.mean() - (1 << 10)) < room
    assert len(np.unique(masks)) > 80


@pytest.mark.parametrize("fault", ["a pair is not removed", "a mask is not added"])
def test_a_mask_that_is_left_in_the_sum_is_caught(monkeypatch, fault):
    """No step is taken, memories stay, all are counted as dropped."""
    cohort = make_cohort(SIZES, batch_size=3)
    mask_of = module.mask_of

    def forgetful(key, place, agreed, n, *, bits):
        forgotten = agreed.at[1].set(agreed[1] & (place != 0))
        return mask_of(key, place, forgotten, n, bits=bits)

    def left_over(key, sent, agreed, n, *, bits):
        del agreed
        return kept(key, sent, sent, n, bits=bits)

    kept = module.left_over
    if fault == "a mask is not added":
        monkeypatch.setattr(module, "mask_of", forgetful)
    else:
        monkeypatch.setattr(module, "left_over", left_over)
        cohort = broken(cohort, 2)
    uplink = error_feedback(RANGE)
    before, after, info = run_round(uplink, cohort, threshold=3)
    assert float(info.observed["lost_sums"].value) == 1
    assert int(info.dropped) == 5
    for old, new in zip(*map(jax.tree.leaves, (before, after)), strict=True):
        np.testing.assert_array_equal(old, new)


def test_too_few_lose_the_sum():
    """Three of five is not more than two thirds."""
    cohort = broken(broken(make_cohort(SIZES, batch_size=3), 1), 3)
    before, after, info = run_round(RANGE, cohort)
    assert float(info.observed["lost_sums"].value) == 1
    assert int(info.dropped) == 5
    for old, new in zip(*map(jax.tree.leaves, (before, after)), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("gone", [{}, {1: Step.ADVERTISE}, {2: Step.MASK}])
def test_the_ledger_counts_what_the_protocol_sends(gone):
    """Byte for byte, step by step, of the sum on the host."""
    cohort = make_cohort(SIZES, batch_size=3)
    for client, step in gone.items():
        if step == Step.MASK:
            cohort = broken(cohort, client)
        else:
            active = cohort.clients.active.at[client].set(False)
            clients = cohort.clients._replace(active=active)
            cohort = cohort._replace(clients=clients)
    _, _, info = run_round(RANGE, cohort)
    bits = info.messages["uplink"].payload.cardinality.bit_length() - 1
    setting = secure_setting(parties=5, n=N + 1, bits=bits, tag=b"test")
    vectors = [np.zeros(N + 1, np.int64)] * 5
    sent = secure_sum(os.urandom, setting, vectors, drops=gone).traffic
    ours = totals({k: v for k, v in info.traffic.items() if k != "downlink"})
    assert ours.uplink_bytes == sent.uplink_bytes.sum()
    assert ours.downlink_bytes == sent.downlink_bytes.sum()
    up = totals({"": info.traffic["agreement_up"]})
    assert up.uplink_messages == 3 * 5 - sum(
        {Step.ADVERTISE: 3, Step.MASK: 1}[step] for step in gone.values()
    )


def test_masked_messages_are_audited():
    _, _, info = run_round(RANGE, make_cohort(SIZES, 3))
    audit = make_auditor(masked_link(identity()))(info.messages["uplink"])
    assert (audit.audited, audit.failures) == (5, ())


def test_a_quiet_mechanism_clips_rounds_and_divides_by_the_cohort():
    """Of five clients one is gone: the others' clipped updates over five."""
    sound = make_cohort(SIZES, batch_size=3)
    noise = client_noise(clip=0.05, noise_multiplier=0.0, fewest=4, n=N)
    before, after, info = run_round(identity(), broken(sound, 4), noise=noise)
    params = before[0].model.params
    moved = optax.tree.sub(after[0].model.params, params)
    train = local_sgd(softmax_task(), optax.sgd(0.3))
    expected = optax.tree.zeros_like(params)
    for i in range(4):
        batches = jax.tree.map(lambda x, i=i: x[i], sound.clients)
        local, _ = train(params, sound.examples, batches)
        short = clip_by_l2(optax.tree.sub(local, params), noise.clip)
        assert float(optax.tree.norm(short)) == pytest.approx(noise.clip, rel=1e-5)
        expected = jax.tree.map(lambda a, b: a + b / 5, expected, short)
    for got, wanted in zip(*map(jax.tree.leaves, (moved, expected)), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=4 * noise.step / 5)
    assert int(info.dropped) == 1
    assert not jax.tree.leaves(after[1])


@pytest.mark.thorough
def test_the_noise_of_a_cohort_has_its_variance():
    """5 clients' noise on 18 numbers, 40 rounds; false alarm below 1e-6.

    A clip of nearly nothing leaves the noise alone. The sum of squares of m normal
    numbers is within m (1 +- 5.5 sqrt(2/m) + 16/m) but for less than 1e-6 (Laurent and
    Massart 2000, lemma 1, t = 15); discrete ones of this width are as good as normal.
    """
    cohort = make_cohort(SIZES, batch_size=3)
    noise = ClientNoise(clip=1e-3, step=1e-5, stddev=1000.0)
    algorithm = secure_fed_avg(
        softmax_task(), client_optimizer=optax.sgd(1e-9), noise=noise
    )
    params = softmax_task().init(jax.random.key(1))
    server, template = algorithm.init(jax.random.key(2), params)
    clients = stack_clients(template, 5)
    step = jax.jit(algorithm.round)
    squares = 0.0
    for i in range(40):
        after, _, _ = step(jax.random.key(i), server, clients, cohort)
        moved = optax.tree.sub(after.model.params, params)
        squares += float(optax.tree.norm(moved)) ** 2
    numbers, t = 40 * N, 15.0
    expected = numbers * 5 * (noise.stddev * noise.step / 5) ** 2
    room = (2 * np.sqrt(numbers * t) + 2 * t) / numbers
    assert 1 - room < squares / expected < 1 + room


@pytest.mark.parametrize(
    ("uplink", "own", "expected"),
    [
        (top_k(0.5), {}, "each client chooses its own coordinates"),
        (identity(), {}, "secure_fed_avg\\(levels=1023"),
        (identity(), {"levels": 5}, "levels=5 and limit=None together"),
        (
            common_range(5, limit=1.0),
            {"noise": ClientNoise(1.0, 0.1, 1.0)},
            "an uplink of floats beside noise",
        ),
        (
            identity(),
            {"noise": ClientNoise(1.0, 0.1, 1.0), "levels": 5, "limit": 1.0},
            "no levels=5 beside noise",
        ),
        (common_range(5, limit=1.0), {"threshold": 2}, "threshold=2 > parties/2"),
        (identity(), {"levels": (1 << 24) - 1, "limit": 1.0}, None),
    ],
)
def test_mistakes(uplink, own, expected):
    cohort = make_cohort(SIZES, batch_size=3)
    if expected is None:
        run_round(uplink, cohort, **own)
        return
    with pytest.raises(ValueError, match=expected):
        run_round(uplink, cohort, **own)
