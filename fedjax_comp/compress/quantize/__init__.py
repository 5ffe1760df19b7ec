"""Quantizers: every coordinate travels, in fewer bits.

Open `scalar.py` first: a scale for a leaf and a few levels for a coordinate. `eden.py`
is what to use behind a rotation, and `codebooks.py` has its levels.
"""
