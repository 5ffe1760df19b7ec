"""Data collaboration: each party uploads private representations, once.

All parties know an anchor A: data that are nobody's private examples. Party i keeps its
map f_i to itself and uploads, once, f_i(X_i), f_i(A) and its labels. The images of the
anchor show how the maps differ: with U_l the left singular vectors of
[f_1(A), ..., f_c(A)],

    G_i = argmin_G ||f_i(A) G - U_l||_F = pinv(f_i(A)) U_l,

and all f_i(X_i) G_i lie in one space, in which any model h can be trained. The model is
sent back with G_i, so that a party predicts h(f_i(x) G_i) by itself.

Source: Imakura, Sakurai 2020, "Data collaboration analysis framework using
centralization of individual intermediate representations for distributed data sets"
(arXiv 1902.07535), Algorithm 1; the settings of the experiment are those of Bogdanova
et al. 2020 (arXiv 2011.06803). Maps and anchors are in `private_maps`.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_comp import checks
from fedjax_comp.base import Compressor, Context, LinkState, PyTree, fold_context
from fedjax_comp.compress import identity
from fedjax_comp.wire.fields import Symbols


class Shared(NamedTuple):
    """What a party uploads, before any compression.

    Attributes:
      x: float32 `[N, m]`, representations of its inputs.
      anchor: float32 `[r, m]`, representation of the anchor.
      labels: int32 `[N]`.
    """

    x: jax.Array
    anchor: jax.Array
    labels: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Upload:
    """The one message of a party.

    Attributes:
      representations: the compressor's payload of `x` and `anchor`.
      labels: `ceil(log2(classes))` bits each.
    """

    representations: PyTree
    labels: Symbols


def collaborate(anchors: Sequence[jax.Array], dimension: int) -> list[jax.Array]:
    """The maps `G_i` into one space, from the representations of the anchor.

    `G_i = sqrt(r) pinv(f_i(A)) U_l`, with `U_l` the leading left singular vectors of
    all of them side by side; the factor makes the anchor's coordinates of order one.

    Args:
      anchors: `f_i(A)`, `[r, m_i]` for each party.
      dimension: `l`, of the common space.

    Returns:
      `G_i`, `[m_i, l]` for each party.

    Raises:
      ValueError: for no party, for anchors of different lengths, and for a dimension
        above `r` or some `m_i`.

    >>> a = jax.random.normal(jax.random.key(0), (9, 3))
    >>> turned = a @ jnp.array([[0.0, 1, 0], [0, 0, -1], [1, 0, 0]])
    >>> g, h = collaborate([a, turned], 3)
    >>> bool(jnp.allclose(a @ g, turned @ h, atol=1e-5))
    True

    Source: Imakura, Sakurai 2020, section 3.2, equations 3 to 5.
    """
    if not anchors:
        raise ValueError("Expected anchors=[] to hold a party's at least.")
    rows = {anchor.shape[0] for anchor in anchors}
    if len(rows) != 1:
        raise ValueError(f"Expected anchors of one length, got {sorted(rows)} rows.")
    most = min(*rows, *(anchor.shape[1] for anchor in anchors))
    if not 1 <= dimension <= most:
        raise ValueError(
            f"Expected 1 <= dimension={dimension} <= {most}, the least of the anchor's "
            "rows and the parties' components."
        )
    left, _, _ = jnp.linalg.svd(jnp.concatenate(anchors, axis=1), full_matrices=False)
    target = left[:, :dimension] * anchors[0].shape[0] ** 0.5
    return [jnp.linalg.lstsq(anchor, target)[0] for anchor in anchors]


def upload_link(
    compressor: Compressor | None = None, *, num_classes: int
) -> Compressor:
    """The link of the one upload: representations compressed, labels as symbols.

    Args:
      compressor: of the representations, a tree of `x` and `anchor`; it must have no
        memory, since there is only one message. `identity()` when None.
      num_classes: labels are in `[0, num_classes)`.

    Returns:
      A `Compressor` of `Shared`.

    Raises:
      ValueError: for fewer than one class; from `init` for a compressor with memory.

    >>> from fedjax_comp.base import make_context
    >>> from fedjax_comp.wire.message import HEADER_BYTES, to_bytes
    >>> shared = Shared(jnp.ones((6, 2)), jnp.ones((4, 2)), jnp.zeros(6, jnp.int32))
    >>> link = upload_link(num_classes=10)
    >>> message, _ = link.encode(make_context(jax.random.key(0), 0), shared, ())
    >>> len(to_bytes(message)) - HEADER_BYTES  # 20 floats, 6 labels of 4 bits
    83
    """
    inner = identity() if compressor is None else compressor
    checks.integer("num_classes", num_classes, minimum=1)

    def init(like: Shared) -> LinkState:
        return checks.memoryless(
            inner,
            {"x": like.x, "anchor": like.anchor},
            "of representations: a party uploads only once, so leave error feedback "
            "out.",
        )

    def encode(
        context: Context, shared: Shared, sender: PyTree
    ) -> tuple[Upload, PyTree]:
        tree = {"x": shared.x, "anchor": shared.anchor}
        payload, sender = inner.encode(fold_context(context, 0), tree, sender)
        labels = Symbols(shared.labels.astype(jnp.uint32), num_classes)
        return Upload(payload, labels), sender

    def decode(
        context: Context, message: Upload, receiver: PyTree
    ) -> tuple[Shared, PyTree]:
        tree, _ = inner.decode(
            fold_context(context, 0), message.representations, receiver
        )
        labels = message.labels.values.astype(jnp.int32)
        return Shared(tree["x"], tree["anchor"], labels), receiver

    return Compressor(init, encode, decode)
