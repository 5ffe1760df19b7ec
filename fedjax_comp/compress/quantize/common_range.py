"""A range that the whole cohort shares: messages of integers that may be added.

Ben Basat, Vargaftik, Portnoy, Einziger, Ben-Itzhak and Mitzenmacher, "QUIC-FL: quick
unbiased compression for federated learning", 2022, and Li et al., "THC: accelerating
distributed deep learning using tensor homomorphic compression", 2024: after a rotation
one range fits all, and numbers that are rounded to one grid can be added as integers:
in a switch, by secure aggregation, or at a server that then decodes once.
correlated_uniform: Suresh, Sun, Ro and Yu, "Correlated quantization for distributed
mean estimation and optimization", 2022, algorithm 2.
"""

import dataclasses

import jax
import jax.numpy as jnp

from fedjax_comp import checks
from fedjax_comp.base import Compressor, Context
from fedjax_comp.compress import noise
from fedjax_comp.compress.combine.leafwise import ArrayCode, leafwise
from fedjax_comp.compress.quantize.scalar import symbols_of
from fedjax_comp.wire.fields import Raw, Symbols

MAX_LEVELS = (1 << 16) - 1


def correlated_uniform(
    context: Context, shape: tuple[int, ...], *, cohort_size: int
) -> jax.Array:
    """Numbers uniform in [0, 1) for each client, spread evenly over the cohort.

        u_i = (pi(i) + gamma_i) / C,   gamma_i uniform in [0, 1),

    where `pi` is a random permutation of the cohort for each coordinate, which all know
    from the round's key: one random order, rotated for each coordinate by a random
    number of places, so that any two clients' places are uniform among all unequal
    pairs. Hence the variance of a cohort's mean is that of independent permutations.

    Args:
      context: its `rank` is the client's place `i` (modulo `C`).
      shape: of the result.
      cohort_size: `C`, static.

    Returns:
      float32 of that shape.
    """
    order_key, turn_key = jax.random.split(context.round_key)
    order = jax.random.permutation(order_key, cohort_size)
    turn = jax.random.randint(turn_key, shape, 0, cohort_size)
    place = (order[context.rank % cohort_size] + turn) % cohort_size
    within = noise.uniform(context.client_key, shape)
    u = (place.astype(jnp.float32) + within) / cohort_size
    return jnp.minimum(u, jnp.float32(1 - 2.0**-24))  # the sum may be rounded up to C


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Ranged:
    """An array on a grid that both ends know.

    Attributes:
      finite: bool, whether all numbers were finite.
      symbols: one a coordinate, the shape of the array.
    """

    finite: Raw
    symbols: Symbols


def common_range(
    levels: int, *, limit: float, cohort_size: int | None = None
) -> Compressor:
    """Rounds at random to `levels` equally spaced numbers in [-limit, limit].

        C(x) = step s - limit,   s = floor(t) + [u < t - floor(t)],
        t = (clip(x) + limit) / step,   step = 2 limit / (levels - 1).

    No scale is sent. Unbiased where `|x| <= limit`, with a variance of at most
    `step^2 / 4` a coordinate; beyond, it is clipped. Put it behind `rotate`, with a
    limit of three to four standard deviations of the rotated coordinates.

    With a `cohort_size` of `C`, clients round by `correlated_uniform` instead of each
    by its own noise. This is still unbiased, and where the clients' numbers agree their
    mean is off by less than `step / C`; with independent noise it is off by up to `step
    / (2 sqrt(C))`, root mean square. For that `Context.rank` must be the client's place
    in the cohort; ranks that coincide modulo `C` only bring back some of the error.

    Args:
      levels: odd, so that 0 is one; in [3, 65535].
      limit: the largest magnitude, positive, the same for all clients.
      cohort_size: how many clients share the rounding; None for independent rounding.

    Returns:
      A stateless `Compressor` that closes the symbols, and one bit that is 0 when some
      number is not finite. See `decode_symbol_sum` for the sum of messages.

    Raises:
      ValueError: when an argument is not as above.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> context = make_context(jax.random.key(0), 0)
      >>> grid = common_range(levels=3, limit=2.0)
      >>> payload, _ = grid.encode(context, jnp.array([-2.0, 0.0, 9.0]), ())
      >>> payload.parts[0].symbols.values.tolist()
      [0, 1, 2]
      >>> grid.decode(context, payload, ())[0]
      Array([-2.,  0.,  2.], dtype=float32)
    """
    levels = checks.integer("levels", levels, minimum=3, maximum=MAX_LEVELS)
    if levels % 2 == 0:
        raise ValueError(f"Expected levels={levels} to be odd, so that 0 is a level.")
    limit = checks.between("limit", limit, above=0, at_most=1e30)
    if cohort_size is not None:
        cohort_size = checks.integer("cohort_size", cohort_size, minimum=1)

    def encode(context: Context, x: jax.Array) -> Ranged:
        x = x.astype(jnp.float32)
        # Around 0, where float32 is finest, and not from the range's lower end.
        t = jnp.clip(x / limit, -1.0, 1.0) * (levels // 2)
        if cohort_size is None:
            t = noise.bernoulli_round(context.client_key, t)
        else:
            u = correlated_uniform(context, x.shape, cohort_size=cohort_size)
            t = jnp.floor(t) + (u < t - jnp.floor(t)).astype(jnp.float32)
        finite = jnp.all(jnp.isfinite(x))
        return Ranged(Raw(finite), symbols_of(t + levels // 2, levels))

    def decode(
        context: Context, payload: Ranged, like: jax.ShapeDtypeStruct
    ) -> jax.Array:
        del context
        x = decode_symbol_sum(payload.symbols.values, 1, levels=levels, limit=limit)
        return jnp.where(payload.finite.values, x, jnp.nan).astype(like.dtype)

    return leafwise(ArrayCode("common_range", encode, decode))


def decode_symbol_sum(
    symbols: jax.Array, clients: jax.typing.ArrayLike, *, levels: int, limit: float
) -> jax.Array:
    """The sum of what `clients` messages of `common_range` decode to, from their sum.

        sum_i C(x_i) = step (sum_i s_i - C (levels - 1) / 2)

    Args:
      symbols: sum of the messages' symbols, integers of any shape.
      clients: how many messages were added, `C`.
      levels: as for `common_range`.
      limit: as for `common_range`.

    Returns:
      float32, the shape of `symbols`.

    >>> decode_symbol_sum(jnp.array([0, 2, 3]), 2, levels=3, limit=1.5)
    Array([-3. ,  0. ,  1.5], dtype=float32)
    """
    half = levels // 2
    offset = jnp.asarray(clients, jnp.int32) * half
    return (symbols.astype(jnp.int32) - offset).astype(jnp.float32) * (limit / half)
