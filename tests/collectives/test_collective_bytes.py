"""What a mean moves: the compiled program's collectives, to the byte, as counted."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmark.hlo_cost import Program
from fedjax_comp.base import RoundInfo, make_context
from fedjax_comp.collectives import collective_mean, sharded_mean
from fedjax_comp.collectives.messages import around_the_ring
from fedjax_comp.compress import identity, scaled_sign, stochastic_quantize
from fedjax_comp.keys import make_key
from fedjax_comp.metrics import Ledger
from fedjax_comp.training import Dispatch
from fedjax_comp.wire.accounting import num_bits
from fedjax_comp.wire.traffic import sent, totals
from tests.collectives.over_devices import AXIS, gradients, on_devices, one_mean
from tests.collectives.test_collectives import COLLECTIVES

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", COLLECTIVES)
def test_what_is_counted_is_what_the_program_sends(name):
    trees, width = gradients(2), 2
    collective = COLLECTIVES[name]
    state = collective.init(jax.tree.map(lambda x: x[0], trees), width)
    lowered = on_devices(collective).lower(make_key(0), trees, state)
    compiled = lowered.compile()
    program = Program(compiled.as_text()).cost
    _, _, exchanged = compiled(make_key(0), trees, state)
    assert sum(program.sent.values()) * width == totals(exchanged.traffic).uplink_bytes


def bench(*flags, path=ROOT):
    command = [
        sys.executable,
        "-m",
        "experiments.benchmark.collectives",
        "--width=4",
        *flags,
    ]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(path)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    means, _, packing = done.stdout.partition("\n\n")
    assert float(packing.splitlines()[-1].split(" | ")[1]) < 1.1
    rows = [line.strip("| ").split(" | ") for line in means.splitlines()[3:]]
    return {name.strip("`"): cells for name, *cells in rows}


@pytest.mark.thorough
def test_four_devices_send_what_is_counted():
    rows = bench(
        "--gradient=small",
        "--rank=1",
        "--compressor=identity()",
        "--compressor=stochastic_quantize(levels=16)",
        "--compressor=random_k(0.1, shared=True)",
    )
    assert len(rows) == 5
    for compiled, counted, *_ in rows.values():
        assert float(compiled) == float(counted) > 0
    # 1,025 numbers: 257 in a shard, 3 zeros among them, in whole words.
    assert float(rows["dense all-reduce"][0]) == 2 * 3 / 4 * 4 * 1025
    assert float(rows["identity()"][0]) == 2 * 3 * 4 * 257
    words = -(-(257 * 4 + 64) // 32)
    assert float(rows["stochastic_quantize(levels=16)"][0]) == 2 * 3 * 4 * words


def test_a_tpus_program_sends_the_same():
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("needs libtpu, of the extra 'tpu'")
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    flags = (
        "--gradient=small",
        "--rank=1",
        "--compressor=stochastic_quantize(levels=16)",
    )
    here = bench(*flags)
    there = bench(*flags, "--compile_for=tpu:v5e:2x2", path=path)
    assert {name: cells[0] for name, cells in there.items()} == {
        name: cells[0] for name, cells in here.items()
    }


def test_what_fills_words_is_counted_and_told():
    width, n = 4, 41
    trees = jax.random.normal(jax.random.key(0), (width, n))
    first, second = stochastic_quantize(levels=5), scaled_sign()
    collective = sharded_mean(first, back=second, axis_name=AXIS)
    _, _, exchanged = one_mean(collective, trees)
    shard = jnp.zeros(-(-n // width))
    bits = [
        num_bits(c.encode(make_context(make_key(0), 0), shard, ())[0]).fixed
        for c in (first, second)
    ]
    whole = [32 * -(-b // 32) for b in bits]
    assert exchanged.filling_numbers == 3
    assert exchanged.filling_bits == (width - 1) * (sum(whole) - sum(bits)) > 0
    traffic = exchanged.traffic
    assert [traffic[k].bits.fixed for k in ("scatter", "gather")] == whole
    for kind in traffic.values():
        pairs = list(zip(*map(np.ravel, kind.ends), strict=True))
        assert sorted(pairs) == [(i, j) for i in range(4) for j in range(4) if i != j]


@pytest.mark.parametrize("width", [1, 2, 3, 5])
@pytest.mark.parametrize("num_words", [0, 1, 4, 5, 13])
def test_a_ring_passes_all_chunks_but_one_on_twice(width, num_words):
    found = jax.vmap(
        lambda _: around_the_ring(num_words, AXIS), axis_name=AXIS, axis_size=width
    )(jnp.zeros(width))
    if width == 1:
        assert found.spoke.shape == (1, 0)
        return
    chunks = [len(part) for part in np.array_split(np.arange(num_words), width)]
    expected = np.zeros((width, 2), int)
    for step in range(width - 1):
        for device in range(width):
            expected[device, 0] += chunks[(device - step) % width]
            expected[device, 1] += chunks[(device + 1 - step) % width]
    bits = found.bits.fixed + np.asarray(found.bits.variable[0], int)
    np.testing.assert_array_equal(bits, 32 * expected)
    assert bits.sum() == 2 * (width - 1) * 32 * num_words
    np.testing.assert_array_equal(found.ends.receiver, (found.ends.sender + 1) % width)


def test_a_ledger_counts_it():
    trees, rounds = gradients(2), 3
    collective = collective_mean(identity(), axis_name=AXIS)
    _, _, exchanged = one_mean(collective, trees, make=on_devices)
    traffic = jax.tree.map(lambda x: jnp.stack([x] * rounds), exchanged.traffic)
    nothing = jnp.zeros(rounds, jnp.int32)
    info = RoundInfo(jnp.ones(rounds), nothing, nothing, traffic, {}, {})
    ledger = Ledger()
    ledger.record(Dispatch(info, {}, jnp.int32(rounds)))
    numbers = sum(x[0].size for x in jax.tree.leaves(trees))
    assert ledger.uplink_bytes == rounds * 2 * 4 * numbers
    assert ledger.uplink_messages == rounds * 2 * 2
    assert sent(exchanged.traffic).bits.sum() == 2 * 32 * numbers
