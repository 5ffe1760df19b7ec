"""Sparsifiers: some coordinates travel, the receiver takes the others for zero.

Open `top_k.py` first. `selection.py` finds the largest or random coordinates fast, and
`counted.py` is for numbers of coordinates that are decided inside jit.
"""
