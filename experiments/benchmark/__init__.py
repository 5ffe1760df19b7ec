"""How long a round takes, beside the same arithmetic written in plain PyTorch."""
