"""A size for each row and each column, one step for the whole update, no rotation.

Updates are not white: some rows and columns of a layer's matrix move far more than
others. A rotation hides that, and the limit that it leads to, `1 / (4^R - 1)`, is the
one for white vectors. Here coordinates stay where they are, and an entropy code is told
how large each is expected to be. The sizes are those of Shazeer and Stern, "Adafactor",
2018:

    variance_ij = row_i column_j / mean        of each matrix,
    t = x / (step rms(x)),   q the level of `t`,   C(x) = S step rms(x) q,

where `rms` is of all leaves together, levels are those of the least error and bits
(`rate_rounding`), and `S` is the scale of least squares, `<t, q> / ||q||^2`. One step
for all leaves is reverse water-filling (Cover and Thomas, "Elements of information
theory", section 10.3.3): coordinates that are large against the step have all the same
error, those that are small against it are 0 and cost next to nothing. Without
`unbiased` sizes are of the coordinates above half a step alone, since the others are
sent as 0: rows of which nothing is sent are all of the least size.

What travels:

    scale   float32: S step rms(x)
    side    a shape for each leaf; log2 of row_i and of column_j / mean, rounded,
            as differences along the leaf, modulo 64: one rANS field
    symbols z = 2 |q| - [q < 0], by rANS under the table of the class of `ij`

The class is the sum of both logs (half-octaves of the standard deviation) and the
leaf's shape, one of `wire.codes.weibull.SHAPES`, which the sender chooses for the
fewest bits. Both ends have it from `side`, in integers, before the first symbol is
decoded; no table travels (`wire.codes.rans_by_class`).

When `unbiased`, `q = floor(t + u)` with noise `u` uniform in [0, 1) that both ends draw
from the client's key, and

    C(x) = step rms(x) (q - w (u - 1/2)),

where `w` follows from the size of `ij` (`separable_noise.noise_weights`): 1, which is
subtractive dither, for coordinates of a step or more, where it leaves `step^2 / 12`
whatever is sent; near 0, which is stochastic rounding, for those far below a step,
where it leaves nearly `|t| step^2`. The bits are the same for every `w`.

Kernels of convolutions are matrices `[height width inputs, outputs]`. Rows of less than
`share` coordinates share one size, and so do columns: vectors and small leaves have a
single size.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp import checks
from fedjax_comp import tree as trees
from fedjax_comp.base import Compressor, Context, LinkState, PyTree
from fedjax_comp.compress import noise
from fedjax_comp.compress.combine.flattened import Flattened
from fedjax_comp.compress.combine.leafwise import is_open, require_open, shape_of
from fedjax_comp.compress.magnitude import power_of_two
from fedjax_comp.compress.quantize.rate_rounding import (
    DEAD_ZONE,
    cheapest_shape,
    rounded_for_rate,
)
from fedjax_comp.compress.quantize.scalar import (
    Quantized,
    levels_of,
    symbols_of,
    zigzag,
)
from fedjax_comp.compress.quantize.separable_classes import (
    Matrix,
    classes_of_side,
    leaf_classes,
    leaf_sizes,
    matrix_of,
    to_side,
)
from fedjax_comp.compress.quantize.separable_noise import rounded_with, without_noise
from fedjax_comp.wire.codes.rans_by_class import Classified, rans_by_class
from fedjax_comp.wire.codes.weibull import (
    DITHERED,
    ROUNDED,
    weibull_tables,
)
from fedjax_comp.wire.fields import Code, Coded, Raw, Symbols, is_field

_SAMPLE = 1 << 16  # coordinates of a leaf, about, that its shape is chosen by


def sample_stride(matrix: Matrix) -> int:
    """The stride of the sample by which a leaf's shape is chosen; it is in all columns.

    >>> sample_stride(Matrix(3136, 512, True, True))
    25
    """
    stride = -(-matrix.rows * matrix.columns // _SAMPLE)
    while math.gcd(stride, matrix.columns) > 1:
        stride += 1
    return stride


def separable(
    step: float = 1.0,
    *,
    unbiased: bool = False,
    rate_weight: float = 0.15,
    share: int = 16,
    symbols_per_lane: int = 8192,
) -> Compressor:
    """One step for the whole update, coded by the sizes of its rows and columns.

    Few bits for updates that have structure: see the head of this module. By default it
    is deterministic, with the scale of least squares: `||C(x) - x||^2 <= ||x||^2` over
    all leaves, so that it may be used under `error_feedback`. With `unbiased`,
    `E C(x) = x` for every coordinate, and `E||C(x) - x||^2 <= step^2 ||x||^2 / 4`, near
    a third of that for steps below 1; at the same bits this error is the larger one.

    It needs the matrices of the tree as they are: put neither `flattened` nor a
    rotation in front of it. What it sends is closed and already coded: `entropy_coded`
    finds nothing to do behind it.

    Args:
      step: in units of the root mean square over all leaves, in [0.01, 100]. 8 takes
        very few bits; 0.5 some two.
      unbiased: whether to round with noise of the client's own, to be averaged over
        clients.
      rate_weight: squared steps that a bit is worth, in [0, 1]; 0 rounds to the
        nearest. Not used where `unbiased`.
      share: the fewest coordinates for which a row or a column has a size of its own.
      symbols_per_lane: as for `rans`.

    Returns:
      A stateless `Compressor` that closes the scale, the sizes and the symbols.

    Raises:
      ValueError: when an argument is not in its range; from `init` when the stages
        before it left nothing open.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> context = make_context(jax.random.key(0), 0)
      >>> x = {"w": jnp.array([[3.0, -1.0], [0.1, -3.0]])}
      >>> payload, _ = separable().encode(context, x, ())
      >>> payload.payload.symbols.field.symbols.values.tolist()
      [2, 0, 0, 1]
      >>> separable().decode(context, payload, ())[0]["w"].tolist()
      [[3.0, 0.0], [0.0, -3.0]]
    """
    checks.between("step", step, above=0.00999, at_most=100)
    return coder(
        "separable",
        lambda context, others, sizes, attempt: attempt(step),
        finest=step,
        unbiased=unbiased,
        rate_weight=rate_weight,
        share=share,
        symbols_per_lane=symbols_per_lane,
    )


Attempt = Callable[[jax.typing.ArrayLike], Quantized]
"""`(step) -> payload` of the leaves at a step, which may be traced."""

Choose = Callable[[Context, tuple[PyTree, ...], list[int], Attempt], Quantized]
"""`(context, leaves that pass through, sizes of the others, attempt) -> payload`."""


def coder(
    name: str,
    choose: Choose,
    *,
    finest: float,
    unbiased: bool,
    rate_weight: float,
    share: int,
    symbols_per_lane: int,
) -> Compressor:
    """The coder at the step that `choose` decides on: `separable` and its kind.

    Args:
      name: for messages.
      choose: makes one attempt or several, and returns the payload of the last.
      finest: the least step of all attempts.
      unbiased: as for `separable`.
      rate_weight: likewise.
      share: likewise.
      symbols_per_lane: likewise.
    """
    checks.between("rate_weight", rate_weight, above=-1e-9, at_most=1)
    checks.integer("share", share, minimum=1)
    checks.integer("symbols_per_lane", symbols_per_lane, minimum=1)
    zone = None if unbiased else DEAD_ZONE

    def layout_of(shapes: Sequence[jax.ShapeDtypeStruct]) -> tuple[Matrix, ...]:
        return tuple(matrix_of(like.shape, share) for like in shapes)

    def init(like: PyTree) -> LinkState:
        require_open(name, like)
        return LinkState(sender=(), receiver=())

    def encode(context: Context, tree: PyTree, sender: PyTree) -> tuple[PyTree, PyTree]:
        leaves, structure = jax.tree.flatten(tree, is_leaf=is_field)
        shapes = tuple(shape_of(leaf) if acts_on(leaf) else None for leaf in leaves)
        others = tuple(leaf for leaf in leaves if not acts_on(leaf))
        acting = [leaf for leaf in leaves if acts_on(leaf)]
        layout = layout_of([shape_of(leaf) for leaf in acting])
        code = class_code("separable", layout, zone, symbols_per_lane)
        key = context.client_key if unbiased else None

        def attempt(step: jax.typing.ArrayLike) -> Quantized:
            scale, field = quantized(acting, layout, step, finest, rate_weight, key)
            # `Coded` is for single fields, and asks no more of them than its code.
            coded = Coded(cast(Symbols, field), code)
            return Quantized(Raw(scale), cast(Symbols, coded))

        payload: PyTree = ()
        if acting:
            sizes = [leaf.size for leaf in acting]
            payload = choose(context, others, sizes, attempt)
        return Flattened(payload, others, structure, shapes), sender

    def decode(
        context: Context, payload: Flattened, receiver: PyTree
    ) -> tuple[PyTree, PyTree]:
        shapes = [like for like in payload.shapes if like is not None]
        x = jnp.zeros(0, jnp.float32)
        if shapes:
            field: Classified = payload.payload.symbols.field
            q = levels_of(field.symbols)
            if unbiased:
                classes = classes_of_side(
                    field.side.values, layout_of(shapes), DITHERED
                )
                q = without_noise(context.client_key, q, classes % DITHERED.number)
            x = payload.payload.scale.values * q
        opened, others = iter(trees.unravel(x, shapes)), iter(payload.others)
        leaves = [next(others if like is None else opened) for like in payload.shapes]
        return jax.tree.unflatten(payload.structure, leaves), receiver

    return Compressor(init, encode, decode)


def acts_on(leaf: PyTree) -> bool:
    """Whether a leaf is open and not empty."""
    return is_open(leaf) and math.prod(leaf.shape) > 0


@functools.lru_cache(maxsize=256)
def class_code(
    name: str,
    layout: tuple[Matrix, ...],
    dead_zone: float | None,
    symbols_per_lane: int,
) -> Code:
    """The code of levels whose classes follow from the sizes of `layout`.

    Static metadata of a payload: the same object for both ends and in every trace.

    Args:
      name: of the compressor.
      layout: the model of each leaf.
      dead_zone: as for `weibull_tables`.
      symbols_per_lane: as for `rans`.
    """
    tables = weibull_tables(dead_zone)
    return rans_by_class(
        f"{name}({len(layout)} leaves)",
        tables,
        functools.partial(classes_of_side, layout=layout, known=tables.sizes),
        symbols_per_lane=symbols_per_lane,
    )


def in_steps(
    leaves: Sequence[jax.Array], step: jax.typing.ArrayLike
) -> tuple[list[jax.Array], jax.Array]:
    """Leaves in units of a step, and the step.

        t = x / (step rms(x)),   rms(x) = ||x|| / sqrt(n)   over all leaves.

    Args:
      leaves: float arrays of any shapes, not empty.
      step: positive.

    Returns:
      float32 arrays, zeros for zeros, and `step rms(x)`, float32 scalar.

    >>> t, width = in_steps([jnp.array([3e38]), jnp.array([-3e38])], 0.5)
    >>> [x.round(3).tolist() for x in t], round(float(width / 1e38), 3)
    ([[2.0], [-2.0]], 1.5)
    """
    leaves = [leaf.astype(jnp.float32) for leaf in leaves]
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in leaves]))
    power, inverse = power_of_two(largest)
    units = [leaf * inverse for leaf in leaves]
    energy = jnp.sum(jnp.stack([jnp.sum(jnp.square(unit)) for unit in units]))
    root = np.sqrt(np.float32(sum(leaf.size for leaf in leaves)))
    width = step * jnp.sqrt(energy) / root
    safe = jnp.where(width == 0, 1.0, width)
    return [unit / safe for unit in units], width * power


def quantized(
    leaves: Sequence[jax.Array],
    layout: tuple[Matrix, ...],
    step: jax.typing.ArrayLike,
    finest: float,
    rate_weight: float,
    key: jax.Array | None,
) -> tuple[jax.Array, Classified]:
    """The symbols that are sent for the leaves, see the head of this module.

    Args:
      leaves: float arrays, not empty.
      layout: the model of each.
      step: in root mean squares.
      finest: the least that `step` may be, which bounds the symbols.
      rate_weight: squared steps that a bit is worth.
      key: of the noise to round with; None without.

    Returns:
      What symbols are multiples of, float32 scalar, and the symbols with their classes.
    """
    # No coordinate is above `sqrt(n)` times the root mean square.
    n = sum(leaf.size for leaf in leaves)
    cardinality = 2 * (math.ceil(math.sqrt(n) / finest) + 1) + 1
    known = DITHERED if key is not None else ROUNDED
    units, width = in_steps(leaves, step)
    symbols: list[jax.Array] = []
    along, square, shapes, sizes = [], [], [], []
    for t, matrix in zip(units, layout, strict=True):
        t = t.reshape(matrix.rows, matrix.columns)
        # Noise makes levels of small coordinates, too.
        counted = t if key is not None else jnp.where(jnp.abs(t) > 0.5, t, 0.0)
        row, column = leaf_sizes(counted, matrix, known)
        size = leaf_classes(row, column, matrix, known)
        t, stride = t.reshape(-1), sample_stride(matrix)
        if key is not None:
            start = sum(part.size for part in symbols)
            noisy = noise.uniform(key, (n,))[start : start + t.size]
            q = rounded_with(noisy, t)
            some = zigzag(q, jnp.abs(q))[::stride].astype(jnp.uint32)
            shape = cheapest_shape(some, size[::stride], None)
        else:
            q, shape = rounded_for_rate(t, size, stride, rate_weight)
        along.append(jnp.sum(t * q))
        square.append(jnp.sum(q * q))
        symbols.append(symbols_of(zigzag(q, jnp.abs(q)), cardinality).values)
        shapes.append(shape)
        sizes += [row, column]
    scale = width
    if key is None:
        # Not `> 0`: what is not a number shall stay visible in the scale.
        divisor = jnp.sum(jnp.stack(square))
        least_squares = jnp.sum(jnp.stack(along)) / divisor
        scale = width * jnp.where(divisor == 0, 0.0, least_squares)
    side = to_side(jnp.stack(shapes), jnp.concatenate(sizes))
    return scale, Classified(side, Symbols(trees.joined(symbols), cardinality))
