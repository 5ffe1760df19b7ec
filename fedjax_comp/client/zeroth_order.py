"""Descent by differences of losses along random directions, and its replay.

With `f` the loss of a batch, `mu` small and `z` standard normal,

    g = (f(x + mu z) - f(x)) / mu,   E g z = grad f_mu(x),   f_mu(x) = E f(x + mu z),

so that `x <- x - eta g z` descends without a gradient. Other directions with
`E z z' = I` give the gradient itself as `mu` goes to 0. Whoever knows the key of `z`
needs only the number `g` to take the same step: that is `replay`.

Sources: Nesterov and Spokoiny 2017, "Random gradient-free minimization of convex
functions", section 3 (`g` and its central twin, `z` Gaussian); Malladi et al. 2023,
"Fine-tuning language models with just forward passes" (MeZO, arXiv 2305.17333),
algorithm 1: directions drawn again from their seed, and never kept; Spall 1992,
"Multivariate stochastic approximation using a simultaneous perturbation gradient
approximation", for directions of signs.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_comp import checks, tree
from fedjax_comp.base import ClientBatches, Examples, PyTree, Task
from fedjax_comp.client.sgd import LocalInfo
from fedjax_comp.compress import noise

Directions = Callable[[jax.Array, jax.Array, PyTree], PyTree]
"""`(key, p, params) -> z`: direction `p` (int32) of one step, whose key is the same for
all its directions; float32 leaves in the shapes of the parameters', `E z z' = I`."""


class Walk(NamedTuple):
    """A client's local steps.

    Attributes:
      params: the parameters after the steps, in float32 at least.
      scalars: `r g` of every step and direction, `r` being `ClientBatches.rate` or 1,
        float32 `[S, P]`; zeros for a step that was not taken.
      info: of the training; `steps` counts steps, each of `evaluations` losses.
    """

    params: PyTree
    scalars: jax.Array
    info: LocalInfo


def gaussian() -> Directions:
    """Independent standard normal numbers, as in the papers.

    Of a loss with the gradient `v` on `n` parameters, `E ||g z||^2 = (n + 2) ||v||^2`.
    Their logarithms may differ by a rounding from one machine or program to the next,
    and so does what is replayed.

    >>> z = gaussian()(jax.random.key(0), jnp.int32(0), {"w": jnp.zeros((2, 3))})
    >>> z["w"].shape
    (2, 3)
    """
    return _leaf_by_leaf(lambda key, n: jax.random.normal(key, (n,), jnp.float32))


def signs() -> Directions:
    """Independent fair signs: a bit a parameter to draw, and the same replay anywhere.

    `E ||g z||^2 = n ||v||^2`, and `x + c z` is one correctly rounded sum, whatever a
    compiler fuses.

    >>> z = signs()(jax.random.key(0), jnp.int32(0), {"w": jnp.zeros(9)})
    >>> sorted(set(z["w"].tolist()))
    [-1.0, 1.0]
    """
    return _leaf_by_leaf(noise.signs)


def coordinates() -> Directions:
    """One parameter at a time, `sqrt(n) e_j`, those of a step one after the other.

    `j = (J + p) mod n` with one uniform `J` per step. With `P = n` directions a step
    meets every parameter once: this is gradient descent, except for `mu`.

    >>> draw, like = coordinates(), {"w": jnp.zeros(4)}
    >>> key = jax.random.key(0)
    >>> sum(draw(key, jnp.int32(p), like)["w"] for p in range(4)).tolist()
    [2.0, 2.0, 2.0, 2.0]
    """

    def draw(key: jax.Array, p: jax.Array, params: PyTree) -> PyTree:
        n = tree.size(params)
        first = jax.random.randint(key, (), 0, n, jnp.int32)
        chosen, start, found = (first + p) % n, 0, []
        leaves, structure = jax.tree.flatten(params)
        for leaf in leaves:
            places = start + jnp.arange(leaf.size, dtype=jnp.int32)
            hit = (places == chosen).astype(jnp.float32) * jnp.float32(math.sqrt(n))
            found.append(hit.reshape(leaf.shape))
            start += leaf.size
        return jax.tree.unflatten(structure, found)

    return draw


def _leaf_by_leaf(vector: Callable[[jax.Array, int], jax.Array]) -> Directions:
    def draw(key: jax.Array, p: jax.Array, params: PyTree) -> PyTree:
        own = jax.random.fold_in(key, p)
        leaves, structure = jax.tree.flatten(params)
        drawn = [
            vector(jax.random.fold_in(own, i), leaf.size).reshape(leaf.shape)
            for i, leaf in enumerate(leaves)
        ]
        return jax.tree.unflatten(structure, drawn)

    return draw


def evaluations(directions: int, *, central: bool) -> int:
    """Losses that one step evaluates: `P + 1`, or `2 P` of central differences.

    >>> evaluations(10, central=False), evaluations(10, central=True)
    (11, 20)
    """
    return 2 * directions if central else directions + 1


def zeroth_order_steps(
    task: Task,
    *,
    rate: float,
    draw: Directions,
    directions: int,
    smoothing: float,
    central: bool = False,
) -> Callable[[PyTree, jax.Array, Examples, ClientBatches], Walk]:
    """Local steps `x <- x - (eta / P) sum_p g_p z_p`, one for each batch.

        g_p = (f(x + mu z_p) - f(x)) / mu,   or   (f(x + mu z_p) - f(x - mu z_p)) / 2 mu

    All losses of a step are of one batch, and use one key for randomness (dropout).
    Step `k` draws its directions from `fold_in(key, k)`, each when it is needed: only a
    few copies of the model are held, whatever `P` is.

    Args:
      task: the model and its loss.
      rate: `eta`.
      draw: the directions.
      directions: `P` of every step.
      smoothing: `mu`.
      central: differences to both sides, whose error is of the order of `mu^2`; their
        `LocalInfo` has the mean loss of the two sides.

    Returns:
      `(params, key, examples, batches) -> Walk`. A step whose mask is empty is not
      taken.

    Raises:
      ValueError: for a rate or smoothing that is not above 0, and `directions` below 1.

    >>> fit = Task(None, lambda w, e, mask, key: jnp.mean((w - e.y) ** 2), None)
    >>> batches = ClientBatches(
    ...     0, jnp.array([[0]]), jnp.ones((1, 1), bool), 1, jnp.array(True),
    ...     jax.random.key(0),
    ... )
    >>> walk = zeroth_order_steps(
    ...     fit, rate=0.25, draw=signs(), directions=1, smoothing=1e-3, central=True
    ... )
    >>> data = Examples(x=jnp.zeros(1), y=jnp.ones(1))
    >>> there = walk(jnp.zeros(()), jax.random.key(1), data, batches)
    >>> round(float(there.params), 3)
    0.5
    """
    checks.positive("rate", rate)
    checks.positive("smoothing", smoothing)
    count = checks.integer("directions", directions, minimum=1)

    def walk(
        params: PyTree, key: jax.Array, examples: Examples, batches: ClientBatches
    ) -> Walk:
        times = jnp.float32(1) if batches.rate is None else batches.rate

        def take_step(
            x: PyTree, batch: Examples, mask: jax.Array, number: jax.Array
        ) -> tuple[PyTree, jax.Array, jax.Array]:
            loss_key = jax.random.fold_in(batches.key, number)
            step_key = jax.random.fold_in(key, number)
            here = None if central else task.loss(x, batch, mask, loss_key)

            def measure(
                moving: PyTree, p: jax.Array
            ) -> tuple[PyTree, tuple[jax.Array, jax.Array]]:
                z = draw(step_key, p, x)
                ahead = task.loss(_moved(x, smoothing, z), batch, mask, loss_key)
                if here is None:
                    away = _moved(x, -smoothing, z)
                    behind = task.loss(away, batch, mask, loss_key)
                    g, middle = (ahead - behind) / (2 * smoothing), (ahead + behind) / 2
                else:
                    g, middle = (ahead - here) / smoothing, here
                scalar = times * g.astype(jnp.float32)
                moving = _moved(moving, step_length(scalar, rate, count), z)
                return moving, (scalar, middle.astype(jnp.float32))

            numbers = jnp.arange(count, dtype=jnp.int32)
            moved, (scalars, losses) = jax.lax.scan(measure, x, numbers)
            return moved, scalars, jnp.mean(losses)

        def stay(
            x: PyTree, batch: Examples, mask: jax.Array, number: jax.Array
        ) -> tuple[PyTree, jax.Array, jax.Array]:
            del batch, mask, number
            return x, jnp.zeros(count, jnp.float32), jnp.zeros((), jnp.float32)

        def step(
            x: PyTree, each: tuple[jax.Array, jax.Array, jax.Array]
        ) -> tuple[PyTree, tuple[jax.Array, LocalInfo]]:
            rows, mask, number = each
            taken = jnp.any(mask) & batches.active
            own = jax.tree.map(lambda leaf: leaf[rows], examples)
            x, scalars, loss = jax.lax.cond(
                taken, take_step, stay, x, own, mask, number
            )
            used = jnp.where(taken, jnp.sum(mask, dtype=jnp.float32), 0)
            return x, (scalars, LocalInfo(loss * used, used, taken.astype(jnp.int32)))

        numbers = jnp.arange(batches.rows.shape[0], dtype=jnp.int32)
        there, (scalars, info) = jax.lax.scan(
            step, tree.widened(params), (batches.rows, batches.mask, numbers)
        )
        return Walk(
            there, scalars, jax.tree.map(lambda x: jnp.sum(x, 0, x.dtype), info)
        )

    return walk


class Replayed(NamedTuple):
    """A model rebuilt.

    Attributes:
      params: after the steps; as they were before where these were refused.
      refused: bool scalar, whether the steps led to what is not finite.
    """

    params: PyTree
    refused: jax.Array


def replay(
    params: PyTree, key: jax.Array, scalars: jax.Array, *, rate: float, draw: Directions
) -> Replayed:
    """Repeats the steps of a round from their scalars alone.

        x <- x - (eta / P) s_kp z_kp,   p = 1, ..., P,   k = 1, ..., S

    in this order, in float32 at least, and the result rounded to the parameters' dtypes
    once. Where it is not finite the parameters stay as they are.

    Args:
      params: before the round.
      key: of the round's directions, as `zeroth_order_steps` was given it.
      scalars: float32 `[S, P]`.
      rate: `eta`.
      draw: the directions.

    >>> scalars, key = jnp.ones((1, 1)), jax.random.key(0)
    >>> there = replay(jnp.zeros(2), key, scalars, rate=0.5, draw=signs())
    >>> jnp.abs(there.params).tolist(), bool(there.refused)
    ([0.5, 0.5], False)
    """
    steps, count = scalars.shape

    def step(x: PyTree, each: tuple[jax.Array, jax.Array]) -> tuple[PyTree, None]:
        number, row = each
        own = jax.random.fold_in(key, number)

        def along(x: PyTree, one: tuple[jax.Array, jax.Array]) -> tuple[PyTree, None]:
            p, length = one
            return _moved(x, length, draw(own, p, x)), None

        lengths = step_length(row, rate, count)
        places = jnp.arange(count, dtype=jnp.int32)
        return jax.lax.scan(along, x, (places, lengths))[0], None

    numbers = jnp.arange(steps, dtype=jnp.int32)
    there, _ = jax.lax.scan(step, tree.widened(params), (numbers, scalars))
    there = tree.cast_like(there, params)
    sound = tree.all_finite(there)
    return Replayed(tree.where(sound, there, params), ~sound)


def step_length(scalar: jax.Array, rate: float, directions: int) -> jax.Array:
    """`-(eta / P) s`, rounded once, whatever it is then multiplied by.

    >>> float(step_length(jnp.float32(3), 0.5, 2))
    -0.75
    """
    return jax.lax.optimization_barrier(jnp.float32(-rate / directions) * scalar)


def _moved(x: PyTree, by: jax.typing.ArrayLike, z: PyTree) -> PyTree:
    return jax.tree.map(
        lambda w, d: w + jnp.asarray(by, w.dtype) * d.astype(w.dtype), x, z
    )
