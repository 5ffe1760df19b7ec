"""Several processes of one run, on `jax.distributed`: the first leads, others follow.

Every process builds the same problem from the same flags and compiles the same program
for the devices of all, so that each client is trained by one of them
(`fedjax_comp.execution.auto`). The first process runs the host's loop with all hooks,
and it alone reads and writes files: no directory need be shared. Before the devices of
all are needed it tells the others what comes next (`tell`, `hear`). Between dispatches
the state lies whole on every device (`to_all`); the clients of a cohort are spread over
the devices inside the program.

    join("10.0.0.1:9999", num_processes=2, process_id=0)

In one process everything here does nothing. A process that ends takes the others with
it (`PeerLost`); the same command in all of them goes on at the last checkpoint.

DrJAX (Rush et al., "DrJAX: scalable and differentiable MapReduce primitives in JAX",
2024) has its clients on an axis of arrays and leaves their placement to the compiler,
which keeps a cohort's updates side by side; an `Execution` adds them up as they come,
so its `shard_map` is used here instead of these primitives.
"""

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from fedjax_comp.base import PyTree
from fedjax_comp.execution import device_mesh

HEARTBEAT_SECONDS = 30
"""After so long a machine that says nothing is taken for gone."""

CONNECT_SECONDS = 120
"""So long a process waits for the others to be started."""

SHUTDOWN_SECONDS = 10
"""So long a process that has ended waits for the others to end."""

Order = dict[str, Any]

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


class FirstEnded(SystemExit):
    """The first process was stopped, and so this one ends with status 1."""

    def __init__(self, reason: str) -> None:
        super().__init__(1)
        self.told = f"ended with the first process: {reason}"

    def __str__(self) -> str:
        return self.told


def join(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Joins the processes of a run, before anything is put on a device.

    Args:
      coordinator_address: "HOST:PORT" of the first process, which listens there.
      num_processes: how many there are.
      process_id: which of them this is, the first being 0. What is None is told by the
        cluster: SLURM or a TPU pod.

    Raises:
      RuntimeError: when devices are already in use.
      ValueError: for what no cluster tells.
    """
    if num_processes is not None and num_processes > 1:
        # The CPU's default, said here because nothing works without it.
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # Its service takes every SIGTERM for itself, and `fedjax_comp.process` needs them.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        coordinator_address,
        num_processes,
        process_id,
        initialization_timeout=CONNECT_SECONDS,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=SHUTDOWN_SECONDS,
    )


def in_cluster(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether SLURM or a TPU pod has started this process beside others.

    >>> in_cluster({}), in_cluster({"TPU_WORKER_HOSTNAMES": "host-0,host-1"})
    (False, True)
    """
    step = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")
    if all(name in environment for name in step):
        return int(environment.get("SLURM_NTASKS", "1")) > 1
    return "," in environment.get("TPU_WORKER_HOSTNAMES", "")


def count() -> int:
    """How many processes there are."""
    return jax.process_count() if jax.distributed.is_initialized() else 1


def is_first() -> bool:
    """Whether this process leads: it alone reads and writes files and speaks."""
    return count() == 1 or jax.process_index() == 0


# ----------------------------------------------------------------------- what is said


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
    """What all processes do together: where the first fails, the others are told.

    Every process is to enter the same steps, one inside another alike. An error of the
    first process is `FirstFailed` in the others, which otherwise raise their own: it
    then has to be one that all processes raise, or the first is told of a lost peer.
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


# ---------------------------------------------------------------------- what is shared


def everywhere() -> NamedSharding | None:
    """Arrays whole on every device of all processes; None in one process."""
    if count() == 1:
        return None
    return NamedSharding(device_mesh(), PartitionSpec())


def to_all(tree: PyTree) -> PyTree:
    """Arrays that every process has for itself, alike, as ones whole on every device.

    Arrays that are so already stay as they are.
    """
    place = everywhere()
    if place is None:
        return tree

    def put(x: jax.Array) -> jax.Array:
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            words = put(jax.random.key_data(x))
            return jax.random.wrap_key_data(words, impl=jax.random.key_impl(x))
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            return x
        copies = [jax.device_put(x, device) for device in place.addressable_devices]
        return jax.make_array_from_single_device_arrays(x.shape, place, copies)

    return jax.tree.map(put, tree)


def to_here(tree: PyTree) -> PyTree:
    """Arrays whole on every device as ones on a device of this process; no copy."""
    if count() == 1:
        return tree
    return jax.tree.map(lambda x: x.addressable_data(0), tree)


def share(tree: PyTree) -> PyTree:
    """The first process's arrays, in all of them; others give some of the same shapes.

    Raises:
      PeerLost: when it cannot be reached.
    """
    if count() == 1:
        return tree

    def one(x: jax.Array) -> jax.Array:
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            words = one(jax.random.key_data(x))
            return jax.random.wrap_key_data(words, impl=jax.random.key_impl(x))
        return jnp.asarray(multihost_utils.broadcast_one_to_all(np.asarray(x)))

    with lost_peers_named():
        return jax.tree.map(one, tree)


def changed(change: Callable[[PyTree], PyTree], state: PyTree) -> PyTree:
    """A state after the first process alone has changed it; the others are told.

    Args:
      change: what it does, to arrays of this process.
      state: whole on every device.
    """
    if count() == 1:
        return change(state)
    here = to_here(state)
    new = change(here)
    before, after = jax.tree.leaves(here), jax.tree.leaves(new)
    if all(a is b for a, b in zip(before, after, strict=True)):
        return state
    tell({"do": "state"})
    return share(new)
