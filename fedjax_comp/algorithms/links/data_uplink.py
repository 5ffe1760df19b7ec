"""The uplink of `data_quantization`: examples, and what refines their gradient."""

from typing import NamedTuple

from fedjax_comp.algorithms.links.example_link import Batch, Cache, example_link
from fedjax_comp.base import Compressor, Context, LinkState, PyTree, fold_context


class Upload(NamedTuple):
    """The content of a client's message.

    Attributes:
      batch: the examples; None where only states are laid out.
      residual: `grad(x) - grad(x')` where there is a refinement, else `()`.
    """

    batch: Batch | None
    residual: PyTree


def data_uplink(
    quantizer: Compressor,
    *,
    num_classes: int,
    refinement: Compressor | None = None,
    weighted: bool = False,
    cache: Cache | None = None,
) -> Compressor:
    """The uplink of `data_quantization`, a compressor of `Upload`: for audits.

    Args:
      quantizer: of one example's `x`.
      num_classes: of the labels.
      refinement: of the residual gradient; None for no refinement.
      weighted: whether there is an importance layer.
      cache: what the server keeps.

    Returns:
      A `Compressor` whose payload is `(examples, refinement)`.

    Raises:
      ValueError: as `example_link`.
    """
    examples = example_link(
        quantizer, num_classes=num_classes, weighted=weighted, cache=cache
    )
    parts = (examples, refinement)

    def init(like: Upload) -> LinkState:
        states = [
            LinkState((), ()) if part is None else part.init(tree)
            for part, tree in zip(parts, like, strict=True)
        ]
        return LinkState(
            tuple(state.sender for state in states),
            tuple(state.receiver for state in states),
        )

    def encode(
        context: Context, upload: Upload, sender: PyTree
    ) -> tuple[PyTree, PyTree]:
        sent, memory = examples.encode(
            fold_context(context, 0), upload.batch, sender[0]
        )
        if refinement is None:
            return (sent, ()), (memory, ())
        refined, owed = refinement.encode(
            fold_context(context, 1), upload.residual, sender[1]
        )
        return (sent, refined), (memory, owed)

    def decode(
        context: Context, payload: PyTree, receiver: PyTree
    ) -> tuple[Upload, PyTree]:
        batch, store = examples.decode(
            fold_context(context, 0), payload[0], receiver[0]
        )
        if refinement is None:
            return Upload(batch, ()), (store, ())
        residual, memory = refinement.decode(
            fold_context(context, 1), payload[1], receiver[1]
        )
        return Upload(batch, residual), (store, memory)

    return Compressor(init, encode, decode)
