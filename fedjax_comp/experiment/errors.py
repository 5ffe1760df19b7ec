"""What a user of a command can do wrong."""


class UsageError(ValueError):
    """A mistake in the flags; the message is one line for the user."""
