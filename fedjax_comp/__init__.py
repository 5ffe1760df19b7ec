"""Communication-efficient federated and distributed learning in JAX.

Start with `fedjax_comp.base`: one page of contracts that everything else is built on.
"""

__version__ = "0.1.0"
