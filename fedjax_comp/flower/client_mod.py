"""The client's end: a Flower mod around an app that knows nothing of compression."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import optax

from fedjax_comp.extras import needs
from fedjax_comp.flower.link import FlowerLink, Refused, seal, stamp_of, unseal
from fedjax_comp.flower.records import KEY, from_record, recall, remember, to_record

if TYPE_CHECKING:
    from flwr.app import Context, Message

App = Callable[[Any, Any], Any]
"""`(message, context) -> reply`: the app, or the next mod."""


def compressing_mod(link: FlowerLink) -> Callable[["Message", "Context", App], Any]:
    """A Flower mod that decodes the server's model and compresses the app's update.

    The app gets an ordinary `ArrayRecord` with the decoded model, and hands back
    another with the model it has trained; what is sent is their difference, compressed.
    The uplink's memory lives in `context.state`, and moves on only with messages that
    the server has counted.

    Args:
      link: the app's; the server app has the same.

    Returns:
      `(message, context, call_next) -> reply`. Messages that no `compressed` strategy
      has made pass through as they are.

    Raises:
      Refused: from the mod, for a message of another run or node, or a damaged one;
        Flower answers the server with the text.
      ValueError: from the mod, for a reply with other than one `ArrayRecord`.
    """

    def mod(message: "Message", context: "Context", call_next: App) -> Any:
        with needs("flower", "messages of a Flower app"):
            from flwr.app import ConfigRecord
        if KEY not in message.content:
            return call_next(message, context)
        sealed = message.content[KEY]
        stamp = stamp_of(sealed["message"])
        expected = stamp._replace(run=message.metadata.run_id, node=context.node_id)
        model = link.hear(stamp, unseal(sealed["message"], expected))
        del message.content[KEY]
        message.content[sealed["arrays"]] = to_record(model)
        reply = call_next(message, context)
        if stamp.kind != "train" or reply.has_error():
            return reply
        if len(reply.content.array_records) != 1:
            raise ValueError(
                "Expected one ArrayRecord in the reply, the trained model, got "
                f"{len(reply.content.array_records)}."
            )
        ((name, trained),) = reply.content.array_records.items()
        if trained.keys() != model.keys():
            raise Refused(
                f"the app trained {sorted(trained)} of a model with {sorted(model)}"
            )
        update = optax.tree.sub(from_record(trained), model)
        own = stamp._replace(kind="update")
        before = recall(context.state, sealed["counted"], link.uplink_sender)
        data, after = link.answer(own, update, before)
        remember(context.state, stamp.round, before, after)
        del reply.content[name]
        reply.content[KEY] = ConfigRecord({"message": seal(data, own), "arrays": name})
        return reply

    return mod
