"""What a user of a command can do wrong."""


class UsageError(ValueError):
    """A mistake in the flags; the message is one line for the user."""


class RunFailed(Exception):
    """A run came to its end and taught its model nothing; the message says why."""
