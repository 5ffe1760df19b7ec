"""The other contenders of `cohort_round`: each is a script for a Python of its own.

A script reads the work of one round, does that round, and prints one JSON line with
versions and the largest difference from the parameters that this library got from the
same work. From then on it runs one round for every line it reads and prints the
seconds. No script imports this library.
"""
