"""The other contenders of `cohort_round`: each a script for a Python of its own.

A script reads a round's work, does that round, and prints one JSON line with versions
and the largest difference from the parameters that the library got from the same work.
From then on it runs one round for every line it reads and prints the seconds. None of
them imports the library.
"""
