"""Pipelines of papers under the papers' names, each a few stages of the other rooms.

Open `quantizers.py` for rotations and quantizers, `sparsifiers.py` for sparsity with
memory. To vary a scheme, copy the line that makes it.
"""
