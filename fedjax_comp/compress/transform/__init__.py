"""Changes of basis in front of a quantizer or a sparsifier.

Open `rotate.py` first: behind its rotation the coordinates of any vector look Gaussian,
which is what `quantize/eden.py` and `trellis/` are made for.
"""
