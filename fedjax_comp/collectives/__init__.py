"""Means over devices that move compressed payloads, inside `jax.shard_map`.

    `collective_mean(compressor)`   the one of these two that suits the compressor:
    `summed_mean(compressor)`         payloads are added by `psum` and decoded once
    `sharded_mean(compressor)`        packed words by `all_to_all` and `all_gather`
    `power_sgd_mean(rank)`          factors by `psum`, orthogonalized between
    `compressed_mean(key, tree, compressor)`   one mean without memory

Open `contract.py` first: it has what all of them have in common.
"""

from fedjax_comp.collectives.chosen import collective_mean, compressed_mean
from fedjax_comp.collectives.contract import AxisName, Collective, Exchanged
from fedjax_comp.collectives.power_sgd import power_sgd_mean
from fedjax_comp.collectives.sharded import sharded_mean
from fedjax_comp.collectives.summed import summed_mean

__all__ = [
    "AxisName",
    "Collective",
    "Exchanged",
    "collective_mean",
    "compressed_mean",
    "power_sgd_mean",
    "sharded_mean",
    "summed_mean",
]
