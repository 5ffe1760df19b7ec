"""Communication-efficient federated and distributed learning in JAX.

Start with `fedjax_comp.base`: the contracts that everything else is built on.
"""

__version__ = "0.1.0"
