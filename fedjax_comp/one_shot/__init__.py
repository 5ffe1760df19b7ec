"""Learning with one exchange: no rounds, and so no `Algorithm`."""
