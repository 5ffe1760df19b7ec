"""Compressors that spend at most what their link may, decided inside jit.

Open `shares.py` first: how a budget is divided over leaves. `budgeted.py` has the
compressors, and `ladder.py` chooses one of several by what fits.
"""
