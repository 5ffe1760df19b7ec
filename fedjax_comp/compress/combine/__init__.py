"""Compressors made of compressors: in sequence, over parts of a tree, with memory.

Open `leafwise.py` first: it lifts a code for one array to trees, as most compressors
are made, and says what "open" means. Then `chain.py` and `feedback.py`.
"""
