"""The experiments; each is run by `python -m experiments.NAME`."""

import os

# A client on each core is what runs here; a factorization on all cores would stand in
# the way of the others. It counts when SciPy is loaded, which JAX does.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
