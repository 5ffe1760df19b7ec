"""Matrices as the product of thin ones."""
