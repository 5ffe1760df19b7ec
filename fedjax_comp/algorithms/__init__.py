"""Distributed learning algorithms, one paper a file, all on `base.Algorithm`."""

from fedjax_comp.algorithms.fed_avg import fed_avg
from fedjax_comp.algorithms.fed_avg_naive import fed_avg_naive
from fedjax_comp.algorithms.fetch_sgd import fetch_sgd

__all__ = ["fed_avg", "fed_avg_naive", "fetch_sgd"]
