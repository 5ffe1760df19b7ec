"""Random keys that both ends of a link derive: always of one implementation.

JAX lets a process choose how its keys draw (`jax_default_prng_impl`). Two ends that
draw the same mask or rotation must not depend on that choice.
"""

import jax
import jax.numpy as jnp

KEY_IMPLEMENTATION = "threefry2x32"
"""Of every key that two ends derive for themselves. Another one (`rbg`) draws other
numbers under `jax.vmap` than outside, and then a message would not decode to what the
run used."""


MAX_SEED = 2**32 - 1


def make_key(seed: jax.typing.ArrayLike) -> jax.Array:
    """A key from a seed, whatever the process's default implementation is.

    Raises:
      ValueError: for an int outside `[0, 2^32)`: JAX would take it modulo 2^32, and two
        seeds would be one.

    >>> str(jax.random.key_impl(make_key(0)))
    'threefry2x32'
    """
    if isinstance(seed, int) and not 0 <= seed <= MAX_SEED:
        raise ValueError(f"Expected seed={seed} in [0, {MAX_SEED}].")
    return jax.random.key(seed, impl=KEY_IMPLEMENTATION)


def check_key(key: jax.Array) -> jax.Array:
    """The key itself, if it is of the implementation that this package uses.

    Raises:
      ValueError: when it is not a key array of `KEY_IMPLEMENTATION`.

    >>> check_key(jax.random.key(0, impl="rbg"))
    Traceback (most recent call last):
    ...
    ValueError: Expected a key of threefry2x32, got one of rbg: make it with \
fedjax_comp.keys.make_key(seed), since both ends of a link must draw the same numbers.
    """
    made_by = type(key).__name__
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        made_by = str(jax.random.key_impl(key))
    if made_by != KEY_IMPLEMENTATION:
        raise ValueError(
            f"Expected a key of {KEY_IMPLEMENTATION}, got one of {made_by}: make it "
            "with fedjax_comp.keys.make_key(seed), since both ends of a link must draw "
            "the same numbers."
        )
    return key
