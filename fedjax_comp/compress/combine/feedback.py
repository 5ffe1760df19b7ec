"""Error feedback: what a compressor lost is added to what it sends next.

Seide et al., "1-bit stochastic gradient descent", 2014; Stich, Cordonnier and Jaggi,
"Sparsified SGD with memory", 2018; Karimireddy et al., "Error feedback fixes SignSGD",
2019, algorithm 2. With momentum: Lin et al., "Deep gradient compression", 2018,
sections 3.1 and 3.2. Decayed: Peng, Quesnelle and Kingma, "DeMo: decoupled momentum
optimization", 2024, algorithm 1, and Sarfi et al., "SparseLoCo", 2025, algorithm 1.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_comp import checks
from fedjax_comp.base import Compressor, Context, LinkState, PyTree
from fedjax_comp.compress.combine.leafwise import (
    open_leaves,
    replace_open,
    require_open,
    twin,
    zeros_of_open,
)


class FeedbackState(NamedTuple):
    """The sender's memory.

    Attributes:
      memory: what is still owed, float32, one array for each open leaf.
      momentum: the running sum of what came in, as `memory`; `()` without momentum.
      sender: the sender's state of the compressor inside.
      receiver: a copy of the receiver's state, to decode as it does.
    """

    memory: tuple[jax.Array, ...]
    momentum: tuple[jax.Array, ...]
    sender: PyTree
    receiver: PyTree


def refuse_feedback(name: str, state: LinkState) -> None:
    """Refuses error feedback around error feedback: its memory grows without bound.

    Raises:
      ValueError: when the sender of `state` has a `FeedbackState` in it.
    """

    def is_memory(part: PyTree) -> bool:
        return isinstance(part, FeedbackState)

    if any(map(is_memory, jax.tree.leaves(state.sender, is_leaf=is_memory))):
        raise ValueError(
            f"Expected a compressor without error feedback in {name}(): it remembers "
            f"what it lost already; leave {name}() out, or the one inside."
        )


def error_feedback(
    compressor: Compressor,
    *,
    momentum: float = 0.0,
    decay: float = 1.0,
    masks_momentum: bool = False,
) -> Compressor:
    """Keeps what a compressor loses and adds it to the next message.

        u <- momentum * u + x,   p = C(decay * e + u),   e <- decay * e + u - decode(p).

    Without momentum and decay, the sum of all decoded messages equals the sum of what
    was to be sent, up to the last `e`: nothing is lost for good.
    Momentum sums each `x` up to `1 / (1 - momentum)` times itself ("momentum
    correction"): the receiver must not apply it again. A decay below 1 forgets what
    was never large enough to be sent. Wrap the whole pipeline: the memory then also
    holds the rounding of its last stage. When a message is not sent, the sender must
    keep the state it had.

    Args:
      compressor: `C`, contractive: `||C(x) - x|| < ||x||`. One that is unbiased because
        it scales up needs no feedback, and would make the memory grow; most such have a
        variant without scaling (`random_k(rescale=False)`, `eden(unbiased=False)`).
      momentum: in [0, 1).
      decay: in (0, 1].
      masks_momentum: whether coordinates that were sent (decoded to another number
        than zero) lose their `u` ("momentum factor masking").

    Returns:
      A `Compressor` with a memory of the size of the open leaves at the sender, twice
      that with momentum.

    Raises:
      ValueError: when an argument is not as above; from `init` when the stages before
        it left nothing open, or when `C` has such a memory already.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjax_comp.base import make_context
      >>> from fedjax_comp.compress import top_k
      >>> uplink = error_feedback(top_k(k=1))
      >>> context = make_context(jax.random.key(0), 0)
      >>> x = jnp.array([3.0, 2.0])
      >>> state = uplink.init(x)
      >>> sender, total = state.sender, jnp.zeros(2)
      >>> for _ in range(5):
      ...     payload, sender = uplink.encode(context, x, sender)
      ...     total += uplink.decode(context, payload, state.receiver)[0]
      >>> total.tolist(), sender.memory[0].tolist()
      ([15.0, 8.0], [0.0, 2.0])
    """
    checks.compressor("compressor", compressor)
    momentum = checks.number("momentum", momentum, minimum=0.0, below=1.0)
    decay = checks.fraction("decay", decay)
    if masks_momentum and momentum == 0.0:
        raise ValueError("Expected momentum > 0 with masks_momentum=True.")

    def init(like: PyTree) -> LinkState:
        require_open("error_feedback", like)
        state = compressor.init(like)
        refuse_feedback("error_feedback", state)
        return LinkState(
            sender=FeedbackState(
                memory=zeros_of_open(like),
                momentum=zeros_of_open(like) if momentum else (),
                sender=state.sender,
                receiver=twin(state.receiver),
            ),
            receiver=state.receiver,
        )

    def encode(
        context: Context, tree: PyTree, sender: FeedbackState
    ) -> tuple[PyTree, FeedbackState]:
        news = tuple(leaf.astype(jnp.float32) for leaf in open_leaves(tree))
        if momentum:
            news = tuple(
                momentum * old + new
                for old, new in zip(sender.momentum, news, strict=True)
            )
        owed = [
            decay * memory + new
            for memory, new in zip(sender.memory, news, strict=True)
        ]
        payload, inner = compressor.encode(
            context, replace_open(tree, owed), sender.sender
        )
        decoded, receiver = compressor.decode(context, payload, sender.receiver)
        sent = [leaf.astype(jnp.float32) for leaf in open_leaves(decoded)]
        memory = tuple(want - got for want, got in zip(owed, sent, strict=True))
        if masks_momentum:
            news = tuple(
                jnp.where(got != 0, 0.0, new)
                for got, new in zip(sent, news, strict=True)
            )
        kept = news if momentum else ()
        return payload, FeedbackState(memory, kept, inner, receiver)

    return Compressor(init, encode, compressor.decode, compressor.linear)
