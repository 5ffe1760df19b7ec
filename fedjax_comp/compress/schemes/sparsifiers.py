"""Named sparsifying pipelines of papers, each a few stages of this package.

The sources are at each function. What a paper does outside the link (clipping, sampling
of clients, the server's step) is not part of a scheme.
"""

from collections.abc import Sequence

from fedjax_comp import checks
from fedjax_comp.base import Compressor
from fedjax_comp.compress.combine.chain import chain
from fedjax_comp.compress.combine.feedback import error_feedback
from fedjax_comp.compress.combine.flattened import flattened
from fedjax_comp.compress.entropy import entropy_coded
from fedjax_comp.compress.quantize.scalar import scaled_sign, stochastic_quantize
from fedjax_comp.compress.sparsify.counted import warm_up_top_k
from fedjax_comp.compress.sparsify.structured import chunk_top_k
from fedjax_comp.compress.sparsify.top_k import random_k, top_k
from fedjax_comp.compress.transform.dct import dct
from fedjax_comp.compress.transform.rotate import rotate
from fedjax_comp.wire.codes import fixed_width, shortest_index_set


def stc(fraction: float) -> Compressor:
    """Sparse ternary compression: of all leaves the top-k as `+mu`, `-mu` or nothing.

        C(x) = mu sign(x_i) for the k largest, mu their mean magnitude.

    Under error feedback; signs in one bit each, positions in the shortest of the codes
    for index sets, Golomb among them. Contractive with `1 - 1/n`.

    Args:
      fraction: `k = round(fraction * n)` of all coordinates.

    Returns:
      A `Compressor`; the paper has one on either link.

    Raises:
      ValueError: when `fraction` is not in (0, 1].

    Source: Sattler, Wiedemann, Müller and Samek, "Robust and communication-efficient
    federated learning from non-i.i.d. data", 2019, algorithms 1 and 2.

    >>> import jax, jax.numpy as jnp
    >>> from fedjax_comp.base import make_context
    >>> context, x = make_context(jax.random.key(0), 0), jnp.array([3.0, -1, 0, -2])
    >>> state = stc(0.5).init(x)
    >>> payload, _ = stc(0.5).encode(context, x, state.sender)
    >>> stc(0.5).decode(context, payload, state.receiver)[0]
    Array([ 2.5,  0. ,  0. , -2.5], dtype=float32)
    """
    codes = entropy_coded(symbols=fixed_width(), indices=shortest_index_set())
    return error_feedback(flattened(chain(top_k(fraction), scaled_sign(), codes)))


def dgc(
    fraction: float,
    *,
    momentum: float = 0.9,
    warm_up: Sequence[float] = (),
    messages: int = 1,
) -> Compressor:
    """Deep gradient compression: top-k with momentum correction and factor masking.

    The clients' momentum is inside: give their optimizer none.

    Args:
      fraction: of every leaf's coordinates, from the end of the warm-up on.
      momentum: in (0, 1).
      warm_up: the larger fractions that come first; none by default.
      messages: for how many messages each of them holds.

    Returns:
      A `Compressor`. With a warm-up, values and indices are closed.

    Raises:
      ValueError: when an argument is not as above.

    Source: Lin, Han, Mao, Wang and Dally, "Deep gradient compression", 2018, section 3
    (local gradient clipping belongs to the client's optimizer).

    >>> import jax, jax.numpy as jnp
    >>> from fedjax_comp.base import make_context
    >>> context, x = make_context(jax.random.key(0), 0), jnp.array([3.0, 1])
    >>> sender = dgc(0.5).init(x).sender
    >>> for _ in range(2):
    ...     payload, sender = dgc(0.5).encode(context, x, sender)
    ...     print(dgc(0.5).decode(context, payload, ())[0], sender.memory[0])
    [3. 0.] [0. 1.]
    [3. 0.] [0.  2.9]
    """
    inner = top_k(fraction)
    if warm_up:
        inner = warm_up_top_k(fraction, warm_up=warm_up, messages=messages)
    return error_feedback(inner, momentum=momentum, masks_momentum=True)


def demo(k: int = 32, *, chunk: int = 64, decay: float = 0.999) -> Compressor:
    """DeMo's link: the largest DCT coefficients of every chunk of a local momentum.

        m <- decay * m + x,   p = top-k of DCT(m) in each chunk,   m <- m - decode(p).

    Args:
      k: coefficients sent of a chunk, in `[1, chunk]`.
      chunk: coordinates in a chunk.
      decay: in (0, 1].

    Returns:
      A `Compressor`. The values stay open; the sign that DeMo takes of the sum is the
      server's step.

    Raises:
      ValueError: when an argument is not as above.

    Source: Peng, Quesnelle and Kingma, "DeMo: decoupled momentum optimization", 2024,
    algorithm 1 (there with tiles of matrices for chunks).

    >>> import jax, jax.numpy as jnp
    >>> from fedjax_comp.base import make_context
    >>> context, x = make_context(jax.random.key(0), 0), jnp.ones((8, 8))
    >>> state = demo(1).init(x)
    >>> payload, _ = demo(1).encode(context, x, state.sender)
    >>> decoded = demo(1).decode(context, payload, state.receiver)[0]
    >>> bool(jnp.allclose(decoded, x, atol=1e-5))
    True
    """
    return error_feedback(chain(dct(chunk), chunk_top_k(k, chunk=chunk)), decay=decay)


def sparse_loco(
    k: int = 64, *, chunk: int = 4096, levels: int = 4, decay: float = 0.95
) -> Compressor:
    """SparseLoCo's link: the largest of every chunk in two bits; the rest decays.

        e <- decay * e + x,   p = Q(top-k of e in each chunk),   e <- e - decode(p).

    What waits in `e` stands in for the outer momentum of DiLoCo, so that the outer step
    is `optax.sgd` without one. The quantizer is a reconstruction: equal steps between
    the least and the largest kept value of a leaf, and a lossless code behind it.

    Args:
      k: kept of a chunk, in `[1, chunk]`; of 4,096 the paper keeps 1 to 3 %.
      chunk: coordinates in a chunk, in `[1, 65536]`.
      levels: of the quantizer, at least 2; four are two bits.
      decay: in (0, 1].

    Returns:
      A `Compressor`, for what local training changed.

    Raises:
      ValueError: when an argument is not as above.

    Source: Sarfi, Thérien, Lidin and Belilovsky, "Communication efficient LLM
    pre-training with SparseLoCo", 2025 (arXiv 2508.15706), algorithm 1.

    >>> import jax, jax.numpy as jnp
    >>> from fedjax_comp.base import make_context
    >>> context, x = make_context(jax.random.key(0), 0), jnp.array([8.0, 1, 1, -4])
    >>> uplink = sparse_loco(2, chunk=4, decay=0.5)
    >>> sender, receiver = uplink.init(x)
    >>> for _ in range(2):
    ...     payload, sender = uplink.encode(context, x, sender)
    ...     print(uplink.decode(context, payload, receiver)[0], sender.memory[0])
    [ 8.  0.  0. -4.] [0. 1. 1. 0.]
    [ 8.  0.  0. -4.] [0.  1.5 1.5 0. ]
    """
    quantizer = stochastic_quantize(levels, rounding="nearest")
    sparse = chain(chunk_top_k(k, chunk=chunk), quantizer, entropy_coded())
    return error_feedback(sparse, decay=decay)


def sketched_update(fraction: float, *, levels: int = 2) -> Compressor:
    """Subsampling, rotation and quantization of all leaves as one vector; unbiased.

    Args:
      fraction: of the coordinates that are sent, rescaled by its inverse.
      levels: of the quantizer, at least 2.

    Returns:
      A stateless `Compressor`.

    Raises:
      ValueError: when an argument is not as above.

    Source: Konečný, McMahan, Yu, Richtárik, Suresh and Bacon, "Federated learning:
    strategies for improving communication efficiency", 2016, section 3.

    >>> import jax, jax.numpy as jnp
    >>> from fedjax_comp.base import make_context
    >>> context = make_context(jax.random.key(0), 0)
    >>> uplink, x = sketched_update(0.5), jnp.ones(64)
    >>> payload, _ = uplink.encode(context, x, uplink.init(x).sender)
    >>> sum(leaf.size for leaf in jax.tree.leaves(payload))  # 32 symbols, two ends
    34
    """
    quantizer = stochastic_quantize(levels=levels)
    return flattened(chain(random_k(fraction), rotate(), quantizer))


def random_mask(fraction: float) -> Compressor:
    """A random pattern for each client and round; only coordinates on it are sent.

    As a structured update the client trains on the pattern alone, and nothing is lost;
    after unconstrained training the rest is dropped, without rescaling: contractive
    with `E||C(x) - x||^2 = (1 - k/n) ||x||^2`.

    Args:
      fraction: of every leaf's coordinates.

    Returns:
      A stateless `Compressor`; no index is sent.

    Raises:
      ValueError: when `fraction` is not in (0, 1].

    Source: Konečný et al., 2016 (see `sketched_update`), section 2.2.

    >>> import jax, jax.numpy as jnp
    >>> from fedjax_comp.base import make_context
    >>> context = make_context(jax.random.key(0), 0)
    >>> payload, _ = random_mask(0.5).encode(context, jnp.ones(4), ())
    >>> sorted(random_mask(0.5).decode(context, payload, ())[0].tolist())
    [0.0, 0.0, 1.0, 1.0]
    """
    return random_k(checks.fraction("fraction", fraction), rescale=False)
