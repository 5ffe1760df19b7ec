"""Several processes of one run, on `jax.distributed`: the first leads, others follow.

Every process builds the same problem from the same flags and compiles the same program
for the devices of all, so that each client is trained by one of them
(`fedjax_comp.execution.auto`). The first process runs the host's loop with all hooks,
and it alone reads and writes files: no directory need be shared. Before the devices of
all are needed it tells the others what comes next (`tell`, `hear`). Between dispatches
the state lies whole on every device (`to_all`), and of the examples each device has a
share (`split_rows`); the clients of a cohort are spread over the devices inside the
program.

    join("10.0.0.1:9999", num_processes=2, process_id=0)

In one process everything here does nothing. A process that ends takes the others with
it (`PeerLost`); the same command in all of them goes on at the last checkpoint.

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
)
from fedjax_comp.distributed.members import count, in_cluster, is_first, join
from fedjax_comp.distributed.orders import (
    FirstEnded,
    FirstFailed,
    PeerLost,
    anyone,
    hear,
    in_step,
    lost_peers_named,
    require_same,
    tell,
)
from fedjax_comp.distributed.rows import is_split, rows_of, split_rows

__all__ = [
    "FirstEnded",
    "FirstFailed",
    "PeerLost",
    "anyone",
    "changed",
    "count",
    "everywhere",
    "hear",
    "in_cluster",
    "in_step",
    "is_first",
    "is_split",
    "join",
    "lost_peers_named",
    "require_same",
    "require_same_arrays",
    "rows_of",
    "share",
    "split_rows",
    "tell",
    "to_all",
    "to_here",
]
