"""The server: how decoded updates are added up, and the step made of their sum.

Open `aggregate.py` first: sums and means of a cohort. `update.py` is the server's step.
"""
