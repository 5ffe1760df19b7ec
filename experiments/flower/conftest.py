"""Keeps the app out of the doctests: Flower imports it, in its own processes."""

collect_ignore_glob = ["app/*"]
