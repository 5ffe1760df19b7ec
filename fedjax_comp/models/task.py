"""Supervised classification as a `Task`: a model and its cross-entropy.

The model maps inputs `[B, ...]` to logits `[B, L]` (one label an example) or
`[B, T, L]` (one label a token). Examples arrive in the dtype they are stored in; what
the model sees is `scale * x` in float32, or the integers themselves when it begins
with an embedding.
"""

import math
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from fedjax_comp import checks
from fedjax_comp.base import Examples, PyTree, Sums, Task, has_statistics
from fedjax_comp.models.network import Network, filled, network_of, observation
from fedjax_comp.tree import along


class ModelFn(Protocol):
    """`(num_classes) -> module`: hyperparameters are chosen, the data are yet to come.

    What the factories `cnn`, `mlp`, ... return. The module maps `[B, ...]` to logits.
    """

    def __call__(self, num_classes: int) -> nn.Module:
        """The module for data with `num_classes` labels."""
        ...


def rank_of(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """How many logits stand above a label's own, int32 `[...]`.

    Of equal ones the first stands above, as `jnp.argmax` has it; so does one that is
    NaN. Above a logit that is not finite itself there is no end of others.

    Args:
      logits: `[..., L]`.
      labels: `[...]`; outside of `[0, L)` there is no logit, and none is finite.

    >>> rank_of(jnp.array([[0.0, 2.0, 2.0]]), jnp.array([2])).tolist()
    [1]
    """
    own = jnp.take_along_axis(logits, labels[..., None], axis=-1)
    places = jax.lax.broadcasted_iota(labels.dtype, logits.shape, logits.ndim - 1)
    not_above = (logits < own) | ((logits == own) & (places >= labels[..., None]))
    rank = jnp.sum(~not_above, axis=-1, dtype=jnp.int32)
    found = jnp.isfinite(own[..., 0]) & (labels >= 0)
    return jnp.where(found, rank, jnp.iinfo(jnp.int32).max)


class _Scored(NamedTuple):
    """Of each label: its logits, itself (0 where it does not count), loss, whether."""

    logits: jax.Array
    labels: jax.Array
    losses: jax.Array
    counted: jax.Array


def classification(
    model: nn.Module | Network,
    *,
    input_shape: tuple[int, ...],
    scale: float = 1.0,
    input_dtype: jax.typing.DTypeLike = jnp.float32,
    ignore_label: int | None = None,
    top: int | None = None,
    perplexity: bool = False,
) -> Task:
    """A classifier with mean softmax cross-entropy `-log p(y | x)`.

    The loss is the mean over the labels that count: those of unmasked examples, every
    token of a sequence being one, except `ignore_label`. It and its gradient are
    exactly 0 when none counts, whatever the masked rows hold.

    Args:
      model: maps `[B, *input_shape]` to logits `[B, L]` or `[B, T, L]`: a `flax.linen`
        module, or what `of_nnx` makes of a `flax.nnx` one
        (`fedjax_comp.models.network`). It may draw in training.
      input_shape: of one example, without `B`.
      scale: floating inputs are multiplied by it, e.g. `1 / 255` for uint8 images.
      input_dtype: what the model takes; an integer type leaves the values as they are.
      ignore_label: a label that is padding and never counts, such as that which fills
        up a short sequence; None where every label counts.
      top: `evaluate` also counts the labels among so many largest logits, as
        `"top_5_accuracy"`; not when None. Of equal logits the first is the larger, as
        for "accuracy"; one that is not finite is no hit.
      perplexity: `evaluate` also tells `exp` of the mean loss, as `"perplexity"`.

    Returns:
      A `Task` whose `params` are the model's. One with running statistics
      (`fedjax_comp.models.network`) moves them on at every local step; a short batch is
      filled with its own examples then, so that no padding is in them.

    Raises:
      ValueError: if `scale` is not finite or zero, or is given for integer inputs,
        `input_shape` holds a size below one, or `top` is below one; from `init`, as
        `of_linen` and `of_nnx`.

    >>> from fedjax_comp.models.linear import linear
    >>> task = classification(linear()(10), input_shape=(8, 8, 1), scale=1 / 16)
    >>> params = task.init(jax.random.key(0))
    >>> digits = Examples(x=jnp.ones((3, 8, 8, 1), jnp.uint8), y=jnp.array([1, 2, 3]))
    >>> task.loss(params, digits, jnp.ones(3, bool), jax.random.key(1)).shape
    ()
    """
    dtype = jnp.dtype(input_dtype)
    floating = jnp.issubdtype(dtype, jnp.floating)
    if not math.isfinite(scale) or scale == 0:
        raise ValueError(f"Expected scale={scale} finite and not zero.")
    if not floating and scale != 1.0:
        raise ValueError(
            f"Expected scale=1.0 with input_dtype={dtype.name}: only floating inputs "
            f"are scaled, and scale={scale} was given."
        )
    if any(size < 1 for size in input_shape):
        raise ValueError(f"Expected every size in input_shape={input_shape} >= 1.")

    if top is not None:
        checks.integer("top", top, minimum=1)
    network = network_of(model)

    def init(key: jax.Array) -> PyTree:
        return network.init(key, jnp.zeros((1, *input_shape), dtype))

    def inputs_of(
        params: PyTree, examples: Examples, mask: jax.Array, *, training: bool
    ) -> jax.Array:
        x = examples.x.astype(dtype)
        inputs = x * jnp.asarray(scale, dtype) if floating else x
        # A masked row may hold anything: zero times the gradient of an overflow is NaN,
        # so such a row is replaced before it meets the parameters.
        inputs = jnp.where(along(mask, inputs), inputs, jnp.zeros((), dtype))
        return filled(inputs, mask) if training and has_statistics(params) else inputs

    def scored(
        params: PyTree, examples: Examples, mask: jax.Array, key: jax.Array | None
    ) -> _Scored:
        inputs = inputs_of(params, examples, mask, training=key is not None)
        logits = network.apply(params, inputs, key)
        # Of bfloat16 a sum of losses would have three digits, and a count 257 no place.
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        labels = examples.y.astype(jnp.int32)
        if logits.shape[:-1] != labels.shape:
            raise ValueError(
                f"Expected a label for each of the logits {list(logits.shape)}, "
                f"[..., classes], got labels {list(labels.shape)}; labels [N, 1] are "
                "[N] by y.reshape(-1)."
            )
        counted = jnp.broadcast_to(along(mask, labels), labels.shape)
        if ignore_label is not None:
            counted = counted & (labels != ignore_label)
        labels = jnp.where(counted, labels, 0)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return _Scored(logits, labels, jnp.where(counted, losses, 0), counted)

    def loss(
        params: PyTree, examples: Examples, mask: jax.Array, key: jax.Array
    ) -> jax.Array:
        _, _, losses, counted = scored(params, examples, mask, key)
        count = counted.sum().astype(losses.dtype)
        return losses.sum() / jnp.maximum(count, 1)

    def evaluate(params: PyTree, examples: Examples, mask: jax.Array) -> Sums:
        logits, labels, losses, counted = scored(params, examples, mask, None)
        above = rank_of(logits, labels)
        found = {
            "count": counted,
            "loss": losses,
            "accuracy": (above < 1) & counted,
        }
        if top is not None:
            found[f"top_{top}_accuracy"] = (above < top) & counted
        return {name: x.sum(dtype=jnp.float32) for name, x in found.items()}

    def with_perplexity(means: Sums) -> Sums:
        others = {n: x for n, x in means.items() if n not in ("loss", "accuracy")}
        return {**others, "perplexity": jnp.exp(means["loss"])}

    derived = with_perplexity if perplexity else None
    return Task(init, loss, evaluate, observation(network, inputs_of), derived)
