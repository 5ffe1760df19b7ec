"""Clipping: what bounds the influence of one client.

McMahan, Ramage, Talwar and Zhang, "Learning differentially private recurrent language
models", 2018, section 2 (flat clipping).
"""

from fedjax_comp import checks
from fedjax_comp.base import Compressor, Context, PyTree
from fedjax_comp.compress.magnitude import clip_by_l2


def clipped(compressor: Compressor, norm: float) -> Compressor:
    """Clips what goes into a compressor, and again what comes out.

        decode(p) = clip(D(p)),   p = C(clip(x))

    The first clipping is a client's own. The guarantee rests on the second one, of what
    was decoded: compressors lengthen vectors (random-k rescales by `n/k`, quantizers
    add noise, error feedback adds what it owes), and a client may send what it likes.
    It changes nothing where the message is no longer than `norm`.

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
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> from fedjax_comp.compress import random_k
      >>> context = make_context(jax.random.key(0), 0)
      >>> uplink = clipped(random_k(k=1), norm=1.0)
      >>> payload, _ = uplink.encode(context, jnp.array([3.0, 4.0]), ())
      >>> decoded, _ = uplink.decode(context, payload, ())
      >>> sorted(decoded.tolist())
      [0.0, 1.0]
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
