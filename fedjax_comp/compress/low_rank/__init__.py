"""Low rank: a matrix travels as the product of two thin ones.

Open `factors.py` first; the decompositions it uses are in `singular.py`, `subspace.py`.
Leaves with fewer than two axes pass through, as do those whose factors would not be
smaller. `coded.py` differs: it codes a whole update, vectors included, in few bits.
"""
