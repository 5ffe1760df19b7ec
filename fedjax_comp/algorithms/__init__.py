"""Distributed learning algorithms, one paper a file, all on `base.Algorithm`."""

from fedjax_comp.algorithms.approximate_synchronous import (
    approximate_synchronous,
    inverse_root,
)
from fedjax_comp.algorithms.consensus import consensus_sgd
from fedjax_comp.algorithms.data_advice import advisable
from fedjax_comp.algorithms.data_quantization import data_quantization
from fedjax_comp.algorithms.diloco import diloco
from fedjax_comp.algorithms.ditto import ditto
from fedjax_comp.algorithms.fed_avg import fed_avg
from fedjax_comp.algorithms.fed_avg_naive import fed_avg_naive
from fedjax_comp.algorithms.fed_buff import fed_buff
from fedjax_comp.algorithms.fed_distill import fed_distill
from fedjax_comp.algorithms.fed_dlr import fed_dlr
from fedjax_comp.algorithms.fed_dlrt import fed_dlrt
from fedjax_comp.algorithms.fed_dyn import fed_dyn
from fedjax_comp.algorithms.fed_exp import fed_exp
from fedjax_comp.algorithms.fed_nova import fed_nova
from fedjax_comp.algorithms.fed_per import fed_per
from fedjax_comp.algorithms.fed_zeroth_order import fed_zeroth_order
from fedjax_comp.algorithms.fetch_sgd import fetch_sgd
from fedjax_comp.algorithms.indirect_gradients import indirect_gradients
from fedjax_comp.algorithms.lazy_gradients import lazy_gradients
from fedjax_comp.algorithms.locodl import locodl
from fedjax_comp.algorithms.marina import marina
from fedjax_comp.algorithms.mime_lite import mime_lite
from fedjax_comp.algorithms.model_averaging import model_averaging
from fedjax_comp.algorithms.optimal_sampling import optimal_sampling
from fedjax_comp.algorithms.scaffnew import scaffnew
from fedjax_comp.algorithms.scaffold import scaffold
from fedjax_comp.algorithms.secure_fed_avg import secure_fed_avg
from fedjax_comp.algorithms.split_learning import split_learning
from fedjax_comp.algorithms.stream_minibatch import minibatch_sgd
from fedjax_comp.algorithms.streaming_diloco import streaming_diloco
from fedjax_comp.algorithms.synchronous import synchronous
from fedjax_comp.algorithms.vertical_split import vertical_split

__all__ = [
    "advisable",
    "approximate_synchronous",
    "consensus_sgd",
    "data_quantization",
    "diloco",
    "ditto",
    "fed_avg",
    "fed_avg_naive",
    "fed_buff",
    "fed_distill",
    "fed_dlr",
    "fed_dlrt",
    "fed_dyn",
    "fed_exp",
    "fed_nova",
    "fed_per",
    "fed_zeroth_order",
    "fetch_sgd",
    "indirect_gradients",
    "inverse_root",
    "lazy_gradients",
    "locodl",
    "marina",
    "mime_lite",
    "minibatch_sgd",
    "model_averaging",
    "optimal_sampling",
    "scaffnew",
    "scaffold",
    "secure_fed_avg",
    "split_learning",
    "streaming_diloco",
    "synchronous",
    "vertical_split",
]
