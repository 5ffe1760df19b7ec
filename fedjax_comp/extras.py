"""Optional dependencies, such as `pip install 'fedjax_comp[report]'` installs.

    data      every data set but `digits`, kept prepared: tensorflow-datasets
    report    figures and TensorBoard events: matplotlib, tensorboardX
    crypto    signatures of the audit log, masks of secure sums: cryptography
    privacy   epsilon of cohorts that are sampled: dp-accounting
    flower    messages of a Flower app: flwr

The core imports one of these only when it needs it, and does so inside `needs`: if it
is missing, the error is one line that names the extra.
"""

import contextlib
import functools
import importlib.util
from collections.abc import Iterator

from absl import logging

_DISTRIBUTIONS = {
    "PIL": "Pillow",
    "dp_accounting": "dp-accounting",
    "tensorflow_datasets": "tensorflow-datasets",
}
"""What to install for a module of another name."""


class MissingExtra(ImportError):
    """An optional package is missing; one line says which, what for, how to get it."""


@contextlib.contextmanager
def needs(extra: str, purpose: str) -> Iterator[None]:
    """A context for imports: the error for a missing package names its extra.

    Args:
      extra: the extra of `pyproject.toml` that brings the package.
      purpose: what it is needed for, in words.

    Raises:
      MissingExtra: in place of `ModuleNotFoundError`.

    >>> with needs("report", "figures"):
    ...     import no_such_package
    Traceback (most recent call last):
    fedjax_comp.extras.MissingExtra: no_such_package is needed for figures: \
pip install 'fedjax_comp[report]'
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtra(_line(error.name or "a package", extra, purpose)) from error


@functools.cache
def goes_with(module: str, *, extra: str, purpose: str) -> bool:
    """Whether `module` is installed; the first time that it is not, the log says so.

    For packages that a run can do without: the log says so before the first round, not
    after the last.

    Args:
      module: a package's name in an import.
      extra: the extra that brings it.
      purpose: what will be missing without it.

    >>> goes_with("json", extra="report", purpose="figures")
    True
    """
    with contextlib.suppress(ModuleNotFoundError):
        if importlib.util.find_spec(module) is not None:
            return True
    logging.warning("%s; going on without.", _line(module, extra, purpose))
    return False


def _line(module: str, extra: str, purpose: str) -> str:
    package = module.partition(".")[0]
    name = _DISTRIBUTIONS.get(package, package)
    return f"{name} is needed for {purpose}: pip install 'fedjax_comp[{extra}]'"
