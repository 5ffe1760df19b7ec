"""Lossless codes of wire fields, each exact about its length inside jit."""

from fedjax_comp.wire.codes.elias import elias_delta, elias_gamma, elias_omega
from fedjax_comp.wire.codes.fixed_width import fixed_width
from fedjax_comp.wire.codes.golomb import golomb_rice
from fedjax_comp.wire.codes.index_sets import shortest_index_set
from fedjax_comp.wire.codes.rans import rans

__all__ = [
    "elias_delta",
    "elias_gamma",
    "elias_omega",
    "fixed_width",
    "golomb_rice",
    "rans",
    "shortest_index_set",
]
