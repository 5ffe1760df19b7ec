"""Who takes part: the processes of a run are joined, and counted."""

import os
from collections.abc import Mapping

import jax

HEARTBEAT_SECONDS = 30
"""After so long a machine that says nothing is taken for gone."""

CONNECT_SECONDS = 120
"""So long a process waits for the others to be started."""

SHUTDOWN_SECONDS = 10
"""So long a process that has ended waits for the others to end."""


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
