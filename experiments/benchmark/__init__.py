"""Benchmarks: time, bytes and memory of rounds and of their parts, beside others."""
