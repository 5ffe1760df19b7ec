"""The one error of the wire."""


class WireError(ValueError):
    """Bytes that do not hold an agreed message, or values that no message can hold."""
