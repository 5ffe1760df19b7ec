"""The one error of the wire."""


class WireError(ValueError):
    """Bytes that are no message of the agreed kind, or values no message can hold."""
