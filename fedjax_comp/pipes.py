"""What commands do when the reader of their pipe has gone, as with `| head`."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def pipe_may_close() -> Iterator[None]:
    """Ends quietly, as other tools do, when nobody reads any more.

    Raises:
      SystemExit: with the code of a program that SIGPIPE ended.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # What is left in the buffer must not be written at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None
