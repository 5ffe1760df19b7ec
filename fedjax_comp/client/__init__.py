"""The client: local training, as one scan over the batches of a round.

Open `sgd.py` first: `local_sgd` with any optax optimizer. `corrections.py` has what
some algorithms do to gradients before the optimizer, `distillation.py` trains a model
on the predictions of others.
"""
