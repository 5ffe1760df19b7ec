"""Compressors made of compressors: in sequence, over parts of a tree, with memory."""
