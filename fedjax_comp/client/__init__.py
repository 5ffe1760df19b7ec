"""The client: local training, as one scan over the batches of a round.

Open `sgd.py` first: `local_sgd` with any optax optimizer. `corrections.py` is what some
algorithms do to gradients before, `distillation.py` learns from what others say.
"""
