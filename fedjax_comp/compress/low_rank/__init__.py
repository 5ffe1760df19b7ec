"""Low rank: a matrix travels as the product of two thin ones.

Open `factors.py` first; what it decomposes with is in `singular.py`. Leaves with fewer
than two axes pass through, as do those whose factors would not be smaller.
"""
