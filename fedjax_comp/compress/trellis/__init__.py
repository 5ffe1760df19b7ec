"""Trellis-coded quantization: coordinates that are coded together, nearest the limit.

Open `fixed_rate.py` first, then `uniform.py` for the variant under an entropy code. The
search for the best path, which both share, is in `viterbi.py`.
"""
