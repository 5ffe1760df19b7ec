"""Distributed learning algorithms, one paper a file, all on `base.Algorithm`."""

from fedjax_comp.algorithms.data_advice import advisable
from fedjax_comp.algorithms.data_quantization import data_quantization
from fedjax_comp.algorithms.dynamic_averaging import dynamic, never, periodic
from fedjax_comp.algorithms.fed_avg import fed_avg
from fedjax_comp.algorithms.fed_avg_naive import fed_avg_naive
from fedjax_comp.algorithms.fed_dlr import fed_dlr
from fedjax_comp.algorithms.fetch_sgd import fetch_sgd
from fedjax_comp.algorithms.model_averaging import model_averaging

__all__ = [
    "advisable",
    "data_quantization",
    "dynamic",
    "fed_avg",
    "fed_avg_naive",
    "fed_dlr",
    "fetch_sgd",
    "model_averaging",
    "never",
    "periodic",
]
