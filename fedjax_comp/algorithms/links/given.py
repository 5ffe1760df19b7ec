"""The compressors of a link as the caller of a factory gave them."""

from fedjax_comp import checks
from fedjax_comp.base import Compressor
from fedjax_comp.compress import identity


def given(
    name: str, compressor: Compressor | None, otherwise: Compressor | None = None
) -> Compressor:
    """The compressor, or what stands for None.

    Args:
      name: of the argument, for the message.
      compressor: the argument.
      otherwise: what None stands for; `identity()` when None itself.

    Raises:
      ValueError: for what is not a compressor, such as a factory that was not called.

    >>> from fedjax_comp.compress import top_k
    >>> given("uplink", top_k)
    Traceback (most recent call last):
    ...
    ValueError: Expected uplink to be a compressor, not top_k; write it as a call: \
top_k(...).
    """
    if compressor is not None:
        return checks.compressor(name, compressor)
    return identity() if otherwise is None else otherwise
