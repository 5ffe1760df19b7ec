"""Low rank: a matrix travels as the product of two thin ones.

Open `factors.py` first; what it decomposes with is in `singular.py` and `subspace.py`.
Leaves with fewer than two axes pass through, as do those whose factors would not be
smaller. `coded.py` is apart: all of an update in the fewest bits, vectors included.
"""
