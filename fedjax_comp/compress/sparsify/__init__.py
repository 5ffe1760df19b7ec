"""Sparsifiers: some coordinates travel, the others are taken for zero."""
