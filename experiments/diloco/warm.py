"""The message by which the worker that begins alone sends its model to the others."""

from pathlib import Path

import jax
import safetensors.flax
from absl import flags
from flax import traverse_util

from fedjax_comp.base import Compressor, PyTree, make_context
from fedjax_comp.compress import identity
from fedjax_comp.experiment.errors import UsageError
from fedjax_comp.experiment.expressions import NAMES
from fedjax_comp.expression import parse
from fedjax_comp.keys import make_key
from fedjax_comp.wire.message import HEADER_BYTES, from_bytes, to_bytes

MODEL = "model.safetensors"


def compressor_of(values: flags.FlagValues) -> Compressor:
    """What `--warm_message` describes; dense without it.

    Raises:
      UsageError: for what is no compressor.
      fedjax_comp.expression.ExpressionError: as `build`.
    """
    text = values.warm_message
    if text is None:
        return identity()
    made = parse(text, NAMES["compressor"], flag="warm_message")
    if not isinstance(made, Compressor):
        raise UsageError(f"--warm_message={text} makes no Compressor.")
    return made


def heard(params: PyTree, compressor: Compressor, seed: int) -> tuple[PyTree, int]:
    """A model as all workers have it after it was told, and the bytes of that.

    It is written to bytes and decoded from these.

    Args:
      params: the model.
      compressor: of the message, without a memory.
      seed: of its noise, where it draws any.

    Returns:
      `(params, bytes)`, without the frame of the message.

    >>> import jax.numpy as jnp
    >>> from fedjax_comp.compress import to_dtype
    >>> heard({"w": jnp.asarray([1.0, 1 / 3])}, to_dtype("bfloat16"), seed=0)
    ({'w': Array([1.        , 0.33398438], dtype=float32)}, 4)
    """
    context = make_context(make_key(seed), 0)
    state = compressor.init(params)
    payload, _ = jax.jit(compressor.encode)(context, params, state.sender)
    data = to_bytes(payload)
    read = from_bytes(data, jax.eval_shape(lambda: payload))
    told, _ = jax.jit(compressor.decode)(context, read, state.receiver)
    return told, len(data) - HEADER_BYTES


def saved(path: Path, params: PyTree) -> None:
    """Keeps a run's model, from which others may begin."""
    named = traverse_util.flatten_dict(params, sep="/")
    safetensors.flax.save_file(named, path / MODEL)


def loaded(path: Path) -> PyTree:
    """What `saved` kept."""
    named = safetensors.flax.load_file(path / MODEL)
    return traverse_util.unflatten_dict(named, sep="/")
