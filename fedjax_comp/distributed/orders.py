"""What the first process tells the others, and what becomes of one that fails."""

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from fedjax_comp.distributed.members import count, is_first

Order = dict[str, Any]
Result = TypeVar("Result")

_SHORT = 1024 - 8  # bytes of an order that travels in one broadcast
_LOST = re.compile(
    "gloo|nccl|connection|coordination|heartbeat|unavailable|socket", re.IGNORECASE
)


class PeerLost(SystemExit):
    """Another process has ended or cannot be reached; the message says what was seen.

    It ends this process too, with status 1.
    """

    def __init__(self, told: str) -> None:
        super().__init__(1)
        self.told = told

    def __str__(self) -> str:
        return self.told


class FirstFailed(Exception):
    """What the first process was doing has failed there; the message is its own."""

    taken = False
    """Whether the step in which it was heard has ended."""


class OtherFailed(OSError):
    """What all processes were doing has failed in another one; the message is its own.

    An `OSError`, since it is used for work on files.
    """


class FirstEnded(SystemExit):
    """The first process was stopped, and so this one ends with status 1."""

    def __init__(self, reason: str) -> None:
        super().__init__(1)
        self.told = f"ended with the first process: {reason}"

    def __str__(self) -> str:
        return self.told


def tell(order: Order) -> None:
    """Tells the other processes what comes next; they `hear` it.

    Raises:
      PeerLost: when they cannot be reached.
    """
    if count() > 1:
        _broadcast(json.dumps(order).encode())


def hear() -> Order:
    """What the first process tells next.

    Raises:
      FirstEnded: when it was stopped.
      FirstFailed: when what it was doing has failed.
      PeerLost: when it cannot be reached.
    """
    order: Order = json.loads(_broadcast(b""))
    if order["do"] == "fail":
        raise (FirstEnded if order["ends"] else FirstFailed)(order["reason"])
    return order


@contextlib.contextmanager
def in_step() -> Iterator[None]:
    """A step that all processes do together: where the first fails, others are told.

    Every process has to enter the same steps, nested in the same way. An error of the
    first process is `FirstFailed` in the others. An error of another process is raised
    there as it is: it has to be one that all processes raise, or the first is told of a
    lost peer.
    """
    try:
        yield
    except (PeerLost, FirstEnded):
        raise
    except Exception as error:
        if count() > 1 and is_first():
            tell({"do": "fail", "ends": False, "reason": str(error)})
        elif isinstance(error, FirstFailed) and not error.taken:
            error.taken = True
        elif count() > 1:
            _hear_failure(error)
        raise
    except BaseException as error:
        # An interrupt or a signal; all steps end with it, and it is told once.
        if count() > 1 and is_first() and not hasattr(error, "is_told"):
            error.is_told = True  # type: ignore[attr-defined]
            reason = str(error) or type(error).__name__
            tell({"do": "fail", "ends": True, "reason": reason})
        raise


def _hear_failure(error: BaseException) -> None:
    try:
        order = hear()
    except FirstFailed:
        return
    raise PeerLost(
        f"this process failed alone ({type(error).__name__}: {error}), the first went "
        f"on to {order['do']!r}."
    ) from error


def anyone(flag: bool) -> bool:
    """Whether any process says yes; all have to ask."""
    if count() == 1:
        return flag
    with lost_peers_named():
        return bool(np.any(multihost_utils.process_allgather(np.array([flag]))))


def together(work: Callable[[], Result]) -> Result:
    """Runs what may fail in one process, and then fails in all; all have to call it.

    Raises:
      OtherFailed: in those that did not fail themselves.
    """
    if count() == 1:
        return work()
    told, mine = "", None
    try:
        result = work()
    except Exception as error:
        mine, told = error, str(error) or type(error).__name__
    if not anyone(mine is not None):
        return result
    words = [text.decode() for text in _gather(told.encode())]
    if mine is not None:
        raise mine
    number = next(i for i, text in enumerate(words) if text)
    raise OtherFailed(f"process {number} of {count()}: {words[number]}")


def require_same(what: str, facts: Mapping[str, object]) -> None:
    """Refuses processes that were not given the same; all have to ask.

    Args:
      what: it is, in the plural.
      facts: JSON-able, by name.

    Raises:
      ValueError: names what differs, in every process.
    """
    if count() == 1:
        return
    told = [json.loads(text) for text in _gather(json.dumps(facts).encode())]
    for process, other in enumerate(told):
        names = [name for name in {**told[0], **other}
                 if told[0].get(name) != other.get(name)]  # fmt: skip
        if names:
            raise ValueError(
                f"Expected the same {what} in all processes, got others in process "
                f"{process} than in the first: {', '.join(names)}."
            )


@contextlib.contextmanager
def lost_peers_named() -> Iterator[None]:
    """Turns what a collective says when a process is gone into one line.

    Raises:
      PeerLost: with that line.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if count() == 1 or not _LOST.search(str(error)):
            raise
        seen = " ".join(str(error).split())[:160]
        raise PeerLost(
            f"another of the {count()} processes has ended or cannot be reached; its "
            f"own message says why, and the same command in all of them goes on at the "
            f"last checkpoint ({seen})."
        ) from error


def _broadcast(text: bytes) -> bytes:
    """The first process's bytes, in all of them."""
    with lost_peers_named():
        head = np.zeros(8 + _SHORT, np.uint8)
        head[:8] = np.frombuffer(len(text).to_bytes(8, "little"), np.uint8)
        head[8 : 8 + len(text)] = np.frombuffer(text[:_SHORT], np.uint8)
        head = np.asarray(multihost_utils.broadcast_one_to_all(head))
        size = int.from_bytes(head[:8].tobytes(), "little")
        if size <= _SHORT:
            return head[8 : 8 + size].tobytes()
        # A power of two, so that few programs are compiled for many lengths.
        whole = np.zeros(1 << (size - 1).bit_length(), np.uint8)
        whole[: len(text)] = np.frombuffer(text, np.uint8)
        whole = np.asarray(multihost_utils.broadcast_one_to_all(whole))
        return whole[:size].tobytes()


def _gather(text: bytes) -> list[bytes]:
    """Every process's bytes, in all of them."""
    with lost_peers_named():
        sizes = np.asarray(multihost_utils.process_allgather(np.int32(len(text))))
        own = np.zeros(1 << int(sizes.max()).bit_length(), np.uint8)
        own[: len(text)] = np.frombuffer(text, np.uint8)
        rows = np.asarray(multihost_utils.process_allgather(own))
    return [row[:size].tobytes() for row, size in zip(rows, sizes, strict=True)]
