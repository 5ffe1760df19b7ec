"""How an error that another library has raised is reported."""

MOST_CHARACTERS = 200


def one_line(error: Exception) -> str:
    r"""An error's message in one line that is not too long, without its full stop.

    >>> one_line(ValueError("first\n- second."))
    'first - second'
    >>> one_line(EOFError())
    'EOFError'
    """
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return text if len(text) <= MOST_CHARACTERS else text[:MOST_CHARACTERS] + " ..."
