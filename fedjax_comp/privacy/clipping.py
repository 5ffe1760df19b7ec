"""Clipping: what bounds the influence of one client.

McMahan, Ramage, Talwar and Zhang, "Learning differentially private recurrent language
models", 2018, section 2 (flat clipping).
"""

import jax
import jax.numpy as jnp

from fedjax_comp import checks
from fedjax_comp.base import Compressor, Context, PyTree
from fedjax_comp.compress.combine.leafwise import open_leaves, replace_open
from fedjax_comp.compress.magnitude import length_in_units


def l2_norm(tree: PyTree) -> jax.Array:
    """The Euclidean norm of all floats of a tree together, float32 scalar.

    It neither overflows nor underflows where the norm itself does not.

    >>> float(l2_norm({"a": jnp.array([3.0]), "b": jnp.array([0.0, -4.0])}))
    5.0
    """
    _, length, power = _in_units(tree)
    return length * power


def _in_units(tree: PyTree) -> tuple[list[jax.Array], jax.Array, jax.Array]:
    """The floats as multiples of one power of two, their norm in it, and the power."""
    return length_in_units([x.astype(jnp.float32) for x in open_leaves(tree)])


def clip_by_l2(tree: PyTree, norm: float) -> PyTree:
    """A tree shortened to a norm of at most `norm`, in its direction.

        x min(1, norm / ||x||_2)

    The bound holds in every dtype but for float32's rounding of the norm: numbers of a
    narrower one are rounded towards zero, since the nearest ones may be longer.

    Args:
      tree: floats of any shapes; other leaves stay as they are.
      norm: the bound, positive.

    Returns:
      A tree like `tree`; NaN everywhere when a number is not finite.

    >>> clip_by_l2([jnp.array([3.0, 4.0])], 1.0)
    [Array([0.6, 0.8], dtype=float32)]
    >>> clip_by_l2([jnp.array([3.0, 4.0])], 10.0)
    [Array([3., 4.], dtype=float32)]
    """
    unit, length, power = _in_units(tree)
    # From the units: the norm of finite numbers may itself not be finite. What is not
    # finite must not be multiplied by zero, nor compare as short.
    scale = jnp.where(jnp.isfinite(length), norm / length, jnp.nan)
    short = length * power <= norm
    return replace_open(
        tree,
        [
            jnp.where(short, leaf, _towards_zero(scale * part, leaf.dtype))
            for leaf, part in zip(open_leaves(tree), unit, strict=True)
        ],
    )


def _towards_zero(x: jax.Array, dtype: jnp.dtype) -> jax.Array:
    nearest = x.astype(dtype)
    too_long = jnp.abs(nearest.astype(x.dtype)) > jnp.abs(x)
    return jnp.where(too_long, jnp.nextafter(nearest, jnp.zeros_like(nearest)), nearest)


def clipped(compressor: Compressor, norm: float) -> Compressor:
    """Clips what goes into a compressor, and again what comes out.

        decode(p) = clip(D(p)),   p = C(clip(x))

    The first is what a client does for its own good. The second is what the guarantee
    rests on: compressors lengthen vectors (random-k rescales by `n/k`, quantizers add
    noise, error feedback adds what it owes), and a client may send what it likes. It
    changes nothing where the message is no longer than `norm`.

    Put it around the whole pipeline. It is not linear: under secure aggregation nobody
    can clip what was sent (see `fedjax_comp.privacy.distributed`).

    Args:
      compressor: of the clipped updates.
      norm: the largest Euclidean norm of an update, all leaves together.

    Returns:
      A `Compressor` with the states of `compressor`.

    Raises:
      ValueError: when `compressor` is not a Compressor, or `norm` not positive and
        finite.

    Example:
      >>> from fedjax_comp.base import make_context
      >>> from fedjax_comp.compress import random_k
      >>> context = make_context(jax.random.key(0), 0)
      >>> uplink = clipped(random_k(k=1), norm=1.0)
      >>> payload, _ = uplink.encode(context, jnp.array([3.0, 4.0]), ())
      >>> decoded, _ = uplink.decode(context, payload, ())
      >>> float(l2_norm(decoded))
      1.0
    """
    checks.compressor("compressor", compressor)
    norm = checks.between("norm", norm, above=0, at_most=1e30)

    def encode(context: Context, tree: PyTree, sender: PyTree) -> tuple[PyTree, PyTree]:
        return compressor.encode(context, clip_by_l2(tree, norm), sender)

    def decode(
        context: Context, payload: PyTree, receiver: PyTree
    ) -> tuple[PyTree, PyTree]:
        tree, receiver = compressor.decode(context, payload, receiver)
        return clip_by_l2(tree, norm), receiver

    return Compressor(compressor.init, encode, decode)
