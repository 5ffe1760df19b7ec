"""Error, packed bits and speed of trellis quantizers on Gaussian vectors.

    python -m experiments.benchmark.trellis --states=256 --bits=1 --bits=2

A Gaussian vector is cut into one part for each CPU device, as if each were a
client's. Bits are those of the messages without their headers, and `gap` is how many
bits a coordinate a quantizer at the limit would save. `--updates=FILE.npy` takes a
vector from a file instead and rotates each part.
"""

import math
import os
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from fedjax_comp.base import Compressor, PyTree, make_context
from fedjax_comp.compress import (
    chain,
    entropy_coded,
    identity,
    rotate,
    trellis,
    uniform_trellis,
)
from fedjax_comp.keys import make_key
from fedjax_comp.wire.message import HEADER_BYTES, to_bytes

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines this script's flags; called once, when it is run."""
    flags.DEFINE_multi_float("bits", [0.1, 0.5, 1, 2, 3, 4], "A coordinate.")
    flags.DEFINE_multi_integer("states", [256], "Of the trellis.")
    flags.DEFINE_multi_enum(
        "kind", ["trellis", "uniform"], ["trellis", "uniform"], "What to measure."
    )
    flags.DEFINE_integer("n", 1 << 20, "Coordinates in all.", lower_bound=1)
    flags.DEFINE_integer("seeds", 1, "Vectors.", lower_bound=1)
    flags.DEFINE_integer("repeats", 3, "Of which the fastest counts.", lower_bound=1)
    flags.DEFINE_integer("cpu_devices", 2, "CPU devices of the mesh.", lower_bound=1)
    flags.DEFINE_string("updates", None, "A vector in a .npy file, to be rotated.")


def gap_bits(rate: float, error: float) -> float:
    """Bits above `log2(1 + 1 / error) / 2`, what the limit needs for an error.

    >>> round(gap_bits(1.0, 1 / 3), 6)
    0.0
    """
    return rate - 0.5 * math.log2(1 + 1 / error)


def least_seconds(run: Callable[..., PyTree], *args: PyTree) -> float:
    """The least wall-clock seconds of some runs."""
    seconds = math.inf
    for _ in range(FLAGS.repeats):
        start = time.perf_counter()
        jax.block_until_ready(run(*args))
        seconds = min(seconds, time.perf_counter() - start)
    return seconds


def measure(quantizer: Compressor, x: jax.Array, seed: int) -> tuple[float, ...]:
    """Rate, error, seconds to encode and to decode; `x` is `[devices, n]`."""
    context = make_context(make_key(seed), 0)
    before = identity() if FLAGS.updates is None else rotate()
    compressor = chain(before, quantizer)
    spread = jax.sharding.PartitionSpec("part")
    mesh = jax.make_mesh(
        (x.shape[0],), ("part",), axis_types=(jax.sharding.AxisType.Auto,)
    )
    x = jax.device_put(x, jax.sharding.NamedSharding(mesh, spread))
    state = compressor.init(x[0])

    def encode_part(x: jax.Array) -> PyTree:
        payload, _ = compressor.encode(context, x[0], state.sender)
        return jax.tree.map(lambda leaf: leaf[None], payload)

    def decode_part(payload: PyTree) -> jax.Array:
        payload = jax.tree.map(lambda leaf: leaf[0], payload)
        return compressor.decode(context, payload, state.receiver)[0][None]

    encode, decode = (
        jax.jit(
            jax.shard_map(
                f, mesh=mesh, in_specs=spread, out_specs=spread, check_vma=False
            )
        )
        for f in (encode_part, decode_part)
    )
    payload = encode(x)
    decoded = decode(payload)
    seconds = least_seconds(encode, x), least_seconds(decode, payload)
    sent = np.asarray(x, np.float64)
    error = np.sum((np.asarray(decoded, np.float64) - sent) ** 2) / np.sum(sent**2)
    coder = entropy_coded()
    size = 0
    for i in range(x.shape[0]):
        part = jax.tree.map(lambda leaf, i=i: jnp.asarray(np.asarray(leaf)[i]), payload)
        coded, _ = coder.encode(context, part.payload, ())
        size += min(len(to_bytes(part)), len(to_bytes(coded))) - HEADER_BYTES
    return 8 * size / x.size, float(error), *seconds


def main(argv: list[str]) -> None:
    del argv
    jax.config.update("jax_num_cpu_devices", FLAGS.cpu_devices)
    parts = min(FLAGS.cpu_devices, len(jax.devices()))
    print("| kind | states | bits | rate | vNMSE | limit | gap | encode | decode |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for states in FLAGS.states:
        for kind in FLAGS.kind:
            make = trellis if kind == "trellis" else uniform_trellis
            for bits in FLAGS.bits:
                rows = []
                for seed in range(FLAGS.seeds):
                    if FLAGS.updates is None:
                        key = make_key(1000 + seed)
                        x = jax.random.normal(key, (parts, FLAGS.n // parts))
                    else:
                        vector = np.load(FLAGS.updates, allow_pickle=False).ravel()
                        vector = vector[: vector.size // parts * parts]
                        x = jnp.asarray(vector.reshape(parts, -1), jnp.float32)
                    rows.append(measure(make(bits, states=states), x, seed))
                rate, error = np.mean([row[:2] for row in rows], axis=0)
                encode, decode = np.min([row[2:] for row in rows], axis=0)
                million = x.size / 1e6
                print(
                    f"| {kind} | {states} | {bits:g} | {rate:.4f} | {error:.5g} | "
                    f"{1 / (4.0**rate - 1):.5g} | {gap_bits(rate, error):.4f} | "
                    f"{million / encode:.2f} | {million / decode:.1f} |",
                    flush=True,
                )
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"\nEncode and decode: million coordinates a second. Load: {load}.")


if __name__ == "__main__":
    define_flags()
    app.run(main)
