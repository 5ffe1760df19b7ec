"""The server: how decoded updates are added up, and the step made with their sum.

Open `aggregate.py` first: sums and means of a cohort. `robust.py` has what replaces
them where some clients are bad, `update.py` the server's step.
"""
