"""A factory's arguments: checked, and a default where None was given."""

import optax

from fedjax_comp import checks
from fedjax_comp.base import Compressor, Execution
from fedjax_comp.compress import identity
from fedjax_comp.execution import scanned


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


def given_execution(execution: Execution | None) -> Execution:
    """How a cohort is run; `scanned()` where None is given.

    Raises:
      ValueError: for what takes no function of a client, such as a factory that was not
        called.

    >>> from fedjax_comp.execution import vmapped
    >>> given_execution(vmapped)
    Traceback (most recent call last):
    ...
    ValueError: Expected execution as a function of 1 argument, not vmapped; write it \
as a call: vmapped(...).
    """
    return scanned() if execution is None else checks.takes("execution", execution, 1)


def given_server_optimizer(
    optimizer: optax.GradientTransformation | None,
) -> optax.GradientTransformation:
    """The server's optimizer; `optax.sgd(1.0)`, a plain mean, where None is given.

    Raises:
      ValueError: for what is no optimizer.
    """
    if optimizer is None:
        return optax.sgd(1.0)
    return checks.optimizer("server_optimizer", optimizer)
