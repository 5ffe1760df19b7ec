"""Pipelines of papers by name, each made of a few stages of the other subpackages.

Open `quantizers.py` for rotations and quantizers, `sparsifiers.py` for sparsity with
memory. To vary a scheme, copy the line that makes it.
"""
