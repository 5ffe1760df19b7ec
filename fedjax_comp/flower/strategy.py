"""The server's end: any Flower strategy, with compressed messages around it.

Flower's contract for a strategy is a class. The class here is made only where Flower is
installed, and delegates to the strategy it is given.
"""

import logging
import math
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import optax

from fedjax_comp.base import PyTree
from fedjax_comp.extras import needs
from fedjax_comp.flower.link import (
    STAMP_BYTES,
    FlowerLink,
    Kind,
    Refused,
    Stamp,
    seal,
    unseal,
)
from fedjax_comp.flower.records import KEY, from_record, to_record
from fedjax_comp.wire.message import HEADER_BYTES

if TYPE_CHECKING:
    from flwr.serverapp.strategy import Strategy


class Sent(NamedTuple):
    """A message in the ledger.

    Attributes:
      round: the server's, from 1.
      node: the client at the other end.
      kind: "train" and "evaluate" go to it, "update" comes from it.
      payload_bytes: what a ledger of this project counts.
      sealed_bytes: with stamp and header: what Flower is given to carry.
    """

    round: int
    node: int
    kind: Kind
    payload_bytes: int
    sealed_bytes: int


class Refusal(NamedTuple):
    """A client's message that did not count, and why."""

    round: int
    node: int
    reason: str


def compressed(strategy: "Strategy", link: FlowerLink) -> "Strategy":
    """A strategy whose messages are compressed; all else is done by `strategy`.

    A message that is malformed, replayed, of another node or run, or a second one of a
    node in a round, is refused: its client is left out of the round, the reason is
    logged, and the run goes on. A message whose metrics have other names than most is
    refused, too.

    Args:
      strategy: any of Flower's.
      link: the app's; `compressing_mod` has the same.

    Returns:
      A `Strategy` with two attributes more: `sent`, a list of `Sent`, and `refused`, a
      list of `Refusal`.

    Raises:
      MissingExtra: without Flower.
      ValueError: from the strategy, when it sends several records of arrays.
    """
    with needs("flower", "a strategy of Flower"):
        from flwr.app import ConfigRecord, RecordDict
        from flwr.serverapp.strategy import Strategy

    class Compressed(Strategy):
        """Decodes before it hands on, encodes after."""

        def __init__(self) -> None:
            self.sent: list[Sent] = []
            self.refused: list[Refusal] = []
            self._sender = link.downlink_sender
            self._name, self._run = "arrays", 0
            self._model: dict[str, Any] = {}
            self._receivers: dict[int, PyTree] = {}
            self._counted: dict[int, int] = {}
            self._asked: set[int] = set()

        def summary(self) -> None:
            strategy.summary()

        def _told(
            self, kind: Kind, round_number: int, messages: Iterable[Any]
        ) -> list[Any]:
            messages = list(messages)
            if not messages:
                return messages
            records = messages[0].content.array_records
            if len(records) != 1:
                raise ValueError(
                    f"Expected one ArrayRecord in what {type(strategy).__name__} sends,"
                    f" the model, got {len(records)}: the others would not be "
                    "compressed."
                )
            ((name, arrays),) = records.items()
            self._name, self._run = name, messages[0].metadata.run_id
            self._model = from_record(arrays)
            body, self._sender = link.tell(
                kind, self._run, round_number, self._model, self._sender
            )
            for message in messages:
                node = message.metadata.dst_node_id
                data = seal(body, Stamp(kind, self._run, round_number, node))
                self._count(kind, round_number, node, data)
                kept = {k: v for k, v in message.content.items() if k != name}
                sealed = {
                    "message": data,
                    "arrays": name,
                    "counted": self._counted.get(node, -1),
                }
                message.content = RecordDict({**kept, KEY: ConfigRecord(sealed)})
            return messages

        def _count(self, kind: Kind, round_number: int, node: int, data: bytes) -> None:
            payload = len(data) - STAMP_BYTES - HEADER_BYTES
            self.sent.append(Sent(round_number, node, kind, payload, len(data)))

        def configure_train(
            self, server_round: int, arrays: Any, config: Any, grid: Any
        ) -> Iterable[Any]:
            made = strategy.configure_train(server_round, arrays, config, grid)
            told = self._told("train", server_round, made)
            self._asked = {message.metadata.dst_node_id for message in told}
            return told

        def aggregate_train(
            self, server_round: int, replies: Iterable[Any]
        ) -> tuple[Any, Any]:
            heard = list(replies)
            failed = [message for message in heard if message.has_error()]
            sound = [message for message in heard if not message.has_error()]
            names = Counter(map(_metric_names, sound)).most_common(1)
            read = []
            for message in sound:
                node = message.metadata.src_node_id
                try:
                    if _metric_names(message) != names[0][0]:
                        raise Refused("its metrics have other names than most")
                    self._read(server_round, node, message)
                except Refused as refused:
                    self.refused.append(Refusal(server_round, node, str(refused)))
                    logging.getLogger("flwr").warning(
                        "round %d: the message of node %d is refused: %s",
                        *self.refused[-1],
                    )
                else:
                    read.append(message)
            return strategy.aggregate_train(server_round, [*read, *failed])

        def _read(self, server_round: int, node: int, message: Any) -> None:
            """Puts the model that a client means in the place of its message."""
            if node not in self._asked:
                raise Refused("the node was not asked, or has answered before")
            record = message.content.config_records.get(KEY)
            data = None if record is None else record.get("message")
            if isinstance(data, bytes):
                self._count("update", server_round, node, data)
            stamp = Stamp("update", self._run, server_round, node)
            require_weight(message, getattr(strategy, "weighted_by_key", None))
            receiver = self._receivers.get(node, link.uplink_receiver)
            update, receiver = link.read(stamp, unseal(data, stamp), receiver)
            if message.content.array_records:
                raise Refused("it holds arrays beside the sealed message")
            self._asked.discard(node)
            self._receivers[node] = receiver
            self._counted[node] = server_round
            del message.content[KEY]
            model = optax.tree.add(self._model, update)
            message.content[self._name] = to_record(model)

        def configure_evaluate(
            self, server_round: int, arrays: Any, config: Any, grid: Any
        ) -> Iterable[Any]:
            made = strategy.configure_evaluate(server_round, arrays, config, grid)
            return self._told("evaluate", server_round, made)

        def aggregate_evaluate(self, server_round: int, replies: Iterable[Any]) -> Any:
            return strategy.aggregate_evaluate(server_round, replies)

    return Compressed()


def require_weight(message: Any, name: str | None) -> None:
    """Refuses what no weighted mean can be taken with.

    Raises:
      Refused: unless a record of metrics has a positive, finite number of this name.
    """
    if name is None:
        return
    found = [record.get(name) for record in message.content.metric_records.values()]
    if len(found) != 1 or not isinstance(found[0], int | float):
        raise Refused(f"it has no number {name!r} in one record of metrics")
    if not 0 < found[0] < math.inf:
        raise Refused(f"it has {name}={found[0]}, not a positive number")


def _metric_names(message: Any) -> tuple[tuple[str, ...], ...]:
    """Of each record of metrics, sorted: what Flower needs to be alike in all."""
    return tuple(
        (name, *sorted(record))
        for name, record in sorted(message.content.metric_records.items())
    )
