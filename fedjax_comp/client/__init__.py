"""The client: local training, as one scan over the batches of a round.

Open `sgd.py`, the only file: `local_sgd` with any optax optimizer.
"""
