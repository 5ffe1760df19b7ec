"""Several processes of one run, on `jax.distributed`: the first leads, others follow.

Every process builds the same problem from the same flags and compiles the same program
for the devices of all processes, so that each client is trained on one of them
(`fedjax_comp.execution.auto`). The first process runs the host's loop with all hooks,
and it alone reads and writes files: no directory need be shared. Before the devices of
all processes are needed it tells the others what comes next (`tell`, `hear`).

Between dispatches every device has the server's whole state (`to_all`), and a share of
the rows of the examples and of the clients' states (`split_rows`). In a round the
program brings a cohort's examples to all devices (`rows_of`) and the states of its
clients to the devices where these are trained (`seated_rows`), and writes them back
(`put_rows`).

A checkpoint, too, is written by the first process: it asks the others for the rows of
the clients' states a block at a time (`gathered`) and writes each block before it asks
for the next. On resuming, it hands them out the same way (`filled`). So no process ever
holds all states, and files do not depend on the number of processes.

    join("10.0.0.1:9999", num_processes=2, process_id=0)

In one process everything here does nothing. When a process ends, the others end with it
(`PeerLost`); the same command in all of them continues from the last checkpoint.

DrJAX (Rush et al., "DrJAX: scalable and differentiable MapReduce primitives in JAX",
2024) has its clients on an axis of arrays and leaves their placement to the compiler,
which keeps a cohort's updates side by side; an `Execution` adds them up as they come,
so its `shard_map` is used here instead of these primitives.
"""

from fedjax_comp.distributed.arrays import (
    changed,
    everywhere,
    require_same_arrays,
    share,
    to_all,
    to_here,
    total,
)
from fedjax_comp.distributed.blocks import (
    filled,
    gathered,
    obeyed,
    repeated_rows,
)
from fedjax_comp.distributed.members import count, in_cluster, is_first, join
from fedjax_comp.distributed.orders import (
    FirstEnded,
    FirstFailed,
    OtherFailed,
    PeerLost,
    anyone,
    hear,
    in_step,
    lost_peers_named,
    require_same,
    tell,
    together,
)
from fedjax_comp.distributed.rows import (
    is_split,
    put_rows,
    rows_of,
    seated_rows,
    split_rows,
)

__all__ = [
    "FirstEnded",
    "FirstFailed",
    "OtherFailed",
    "PeerLost",
    "anyone",
    "changed",
    "count",
    "everywhere",
    "filled",
    "gathered",
    "hear",
    "in_cluster",
    "in_step",
    "is_first",
    "is_split",
    "join",
    "lost_peers_named",
    "obeyed",
    "put_rows",
    "repeated_rows",
    "require_same",
    "require_same_arrays",
    "rows_of",
    "seated_rows",
    "share",
    "split_rows",
    "tell",
    "to_all",
    "to_here",
    "together",
    "total",
]
