"""The app is imported by Flower, in its processes."""

collect_ignore_glob = ["app/*"]
