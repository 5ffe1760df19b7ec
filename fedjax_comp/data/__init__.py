"""Data: what there is, who holds it, and which of it a round uses.

`load` a data set, `federate` it by a partition, and `sample_cohort` inside the jitted
round.
"""

from fedjax_comp.data.cohort import make_batches, sample_clients, sample_cohort
from fedjax_comp.data.federated import (
    DataSpec,
    FederatedData,
    federate,
    federated_data,
)
from fedjax_comp.data.input_partition import InputPartition, clusters
from fedjax_comp.data.minibatch import sample_minibatches
from fedjax_comp.data.partition import (
    Assignment,
    Partition,
    dirichlet,
    from_lists,
    iid,
    natural,
    shards,
)
from fedjax_comp.data.sources import NAMES, Dataset, DataUnavailable, InvalidData, load
from fedjax_comp.data.validation import hold_out, set_aside

__all__ = [
    "NAMES",
    "Assignment",
    "DataSpec",
    "DataUnavailable",
    "Dataset",
    "FederatedData",
    "InputPartition",
    "InvalidData",
    "Partition",
    "clusters",
    "dirichlet",
    "federate",
    "federated_data",
    "from_lists",
    "hold_out",
    "iid",
    "load",
    "make_batches",
    "natural",
    "sample_clients",
    "sample_cohort",
    "sample_minibatches",
    "set_aside",
    "shards",
]
