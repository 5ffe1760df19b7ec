"""Quantizers: every coordinate in fewer bits."""
