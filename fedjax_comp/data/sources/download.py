"""Downloads by the download manager of TFDS, which checks what it knows of an address.

The manager retries for minutes and has no time limit of its own, so it is called only
after the host has answered a short request.
"""

import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from fedjax_comp.data.sources.contract import DataUnavailable
from fedjax_comp.extras import needs

_ANSWER_SECONDS = 5.0


def fetch(urls: Mapping[str, str], folder: Path) -> None:
    """Downloads files into `folder`.

    Args:
      urls: file name to address.
      folder: an existing folder for the files.

    Raises:
      DataUnavailable: if a host does not answer within seconds, or a download fails or
        has not the checksum known to TFDS.
      MissingExtra: without the packages of the extra `data`.
    """
    with needs("data", "downloads"):
        import tensorflow_datasets as tfds
    first = next(iter(urls.values()))
    reason = _unreachable(first)
    if reason is not None:
        raise DataUnavailable(f"{first} cannot be reached ({reason})")
    try:
        manager = tfds.download.DownloadManager(download_dir=str(folder / "cache"))
        paths = manager.download(dict(urls))
        for name, path in paths.items():
            shutil.move(str(path), folder / name)
    # requests, TFDS and the file system have no common type of error.
    except Exception as error:
        raise DataUnavailable(
            f"downloading from {first} failed ({type(error).__name__}: {error})"
        ) from error


def _unreachable(url: str) -> str | None:
    """Why a host does not answer, or None when it does."""
    outcome: list[str | None] = []

    def ask() -> None:
        request = urllib.request.Request(url, method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS):
                outcome.append(None)
        except (urllib.error.URLError, OSError, ValueError) as error:
            outcome.append(str(error))

    # A thread, because looking up a name has no time limit of its own.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(2 * _ANSWER_SECONDS)
    return outcome[0] if outcome else f"no answer in {2 * _ANSWER_SECONDS:g} s"
