"""Trains the codebooks of `fedjax_comp.compress.trellis.fixed_rate`.

    python -m experiments.benchmark.trellis_training --output=codebooks.npz

The training is Lloyd's iteration on a trellis: Gaussian vectors are encoded, each level
moves to the mean of the numbers that were coded by it, and the levels of the last
iterations are averaged. The same seed gives the same codebooks only up to the rounding
of the machine, so the package ships the result in place of training it again. 256
states take a minute, 4096 some minutes each.
"""

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from fedjax_comp.compress.trellis.codebook import Float32Array, spread_codebook
from fedjax_comp.compress.trellis.viterbi import cheapest_path
from fedjax_comp.keys import make_key

FLAGS = flags.FLAGS
STEPS = 1024
SHIPPED = (
    *("256_1_10", "256_1_5", "256_1_4", "256_1_2", "256_1_1"),
    *("256_3_2", "256_2_1", "256_5_2", "256_3_1", "256_4_1"),
    *("4096_1_2", "4096_1_1", "4096_2_1", "4096_3_1"),
)
PRIOR = 2.0  # observations that a level's former place counts for


def define_flags() -> None:
    """Defines this script's flags; called once, when it is run."""
    flags.DEFINE_string("output", "codebooks.npz", "File to write or to add to.")
    flags.DEFINE_multi_string(
        "codebook",
        list(SHIPPED),
        "What to train: states_k_v.",
    )
    flags.DEFINE_string("start", None, "A file of codebooks to go on from.")
    flags.DEFINE_integer("iterations", 120, "Of Lloyd's.", lower_bound=1)
    flags.DEFINE_integer("average", 40, "The last iterations that are averaged.")
    flags.DEFINE_integer("observations", 1000, "For each level in an iteration.")
    flags.DEFINE_integer("seed", 0, "Of the Gaussian vectors.")


def train(
    name: str,
    start: Float32Array,
    *,
    iterations: int,
    average: int,
    observations: int,
    seed: int,
) -> Float32Array:
    """Levels `[states, v]` after so many iterations; prints the error on the way."""
    states, width, v = map(int, name.split("_"))
    branches = 1 << width
    lanes = max(16, (1 << 14) // states)
    groups = max(1, observations * states // (STEPS * lanes))

    @jax.jit
    def iterate(
        key: jax.Array, levels: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        x = jax.random.normal(key, (groups, STEPS, v, lanes))
        squares = jnp.sum(levels**2, axis=1, keepdims=True)

        def windows(x: jax.Array) -> jax.Array:
            return cheapest_path(
                lambda at: squares - 2 * (levels * at if v == 1 else levels @ at),
                x,
                windows=states,
                branches=branches,
            )

        at = jax.lax.map(windows, x)
        flat = jnp.moveaxis(x, 2, -1)
        q = levels[at]
        error = jnp.sum(flat**2) * jnp.sum(q**2) / jnp.sum(flat * q) ** 2 - 1
        ones = jnp.ones((at.size, 1))
        sums = (
            jnp.zeros((states, v + 1))
            .at[at.reshape(-1)]
            .add(jnp.concatenate([flat.reshape(-1, v), ones], axis=1))
        )
        moved = (sums[:, :v] + PRIOR * levels) / (sums[:, v:] + PRIOR)
        return moved, error, jnp.mean((flat - q) ** 2)

    levels = jnp.asarray(start)
    total = np.zeros((states, v))
    for i in range(iterations):
        key = jax.random.fold_in(make_key(seed), i)
        levels, error, distortion = iterate(key, levels)
        if i >= iterations - average:
            total += np.asarray(levels)
        if i % 20 == 0 or i == iterations - 1:
            print(
                f"{name} iteration {i}: vNMSE {float(error):.4f}, "
                f"distortion {float(distortion):.4f}",
                flush=True,
            )
    return (total / min(average, iterations)).astype(np.float32)


def main(argv: list[str]) -> None:
    del argv
    for name in FLAGS.codebook:
        if FLAGS.start is None:
            start = spread_codebook(*map(int, name.split("_")))
        else:
            with np.load(FLAGS.start, allow_pickle=False) as stored:
                start = stored[name].astype(np.float32)
        levels = train(
            name,
            start,
            iterations=FLAGS.iterations,
            average=FLAGS.average,
            observations=FLAGS.observations,
            seed=FLAGS.seed,
        )
        try:
            with np.load(FLAGS.output, allow_pickle=False) as stored:
                codebooks = dict(stored)
        except FileNotFoundError:
            codebooks = {}
        codebooks[name] = levels.astype(np.float16)
        np.savez_compressed(FLAGS.output, allow_pickle=False, **codebooks)


if __name__ == "__main__":
    define_flags()
    app.run(main)
