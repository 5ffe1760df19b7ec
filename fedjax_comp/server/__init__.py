"""The server: how decoded updates are added up, and the step made of their sum.

Open `aggregate.py` first: sums and means of a cohort. `robust.py` has what takes their
place where some clients are bad, `update.py` the server's step.
"""
