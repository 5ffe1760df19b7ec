"""Your own factories, from any module, as names in the expressions of flags.

    python -m experiments.fed_avg --import=my_package.my_compressors \
        --uplink='my_compressor(3)' --workdir=DIR

A module's public functions become names in the expressions of flags, by the type that
they say they return: a `Compressor`, a `ModelFn`, an `optax.GradientTransformation` or
an `Algorithm`. An installed package does the same without the flag by an entry point:

    [project.entry-points."fedjax_comp.factories"]
    my_package = "my_package.my_compressors"
"""

import importlib
import importlib.metadata
import inspect
import types
import typing

import optax
from absl import flags

from fedjax_comp.base import Algorithm, Compressor
from fedjax_comp.experiment import algorithms, expressions
from fedjax_comp.experiment.errors import UsageError
from fedjax_comp.models import ModelFn

GROUP = "fedjax_comp.factories"
"""Of the entry points by which installed packages offer theirs."""


def offer_own(values: flags.FlagValues) -> None:
    """Offers what the modules of `--import` and installed packages hold.

    Raises:
      UsageError: for a module that cannot be imported or offers nothing, and for a name
        that is taken.
    """
    for entry in importlib.metadata.entry_points(group=GROUP):
        _offer_from(f"the entry point {entry.name} = {entry.value!r}", entry.value)
    given = values["import"].value if "import" in values else None
    for name in given or ():
        _offer_from(f"--import={name}", name)


def _offer_from(told: str, name: str) -> None:
    try:
        module = importlib.import_module(name)
    except Exception as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise UsageError(
            f"{told} cannot be imported ({why}); the module must be installed or lie "
            "in the folder where the command is run."
        ) from error
    if not offer(module):
        raise UsageError(
            f"{told} has no public function that says it returns a Compressor, "
            "ModelFn, GradientTransformation or Algorithm: annotate it."
        )


def offer(module: types.ModuleType) -> list[str]:
    """Makes a module's factories names in flags' expressions.

    Args:
      module: its functions without a leading underscore that were written in it, and
        say what they return, are taken.

    Returns:
      Their names.

    Raises:
      UsageError: for a name that another factory has.
    """
    found = []
    for name, made in vars(module).items():
        own = inspect.isfunction(made) and made.__module__ == module.__name__
        if name.startswith("_") or not own:
            continue
        kind = typing.get_type_hints(made).get("return")
        if kind is Algorithm:
            _add(algorithms.OFFERED, name, made, algorithms.Offered(made))
            choose = algorithms.named(name)
            _add(algorithms.NAMES, name, made, choose)
        elif kind is Compressor:
            _add(expressions.COMPRESSORS, name, made, made)
        elif kind is optax.GradientTransformation:
            _add(expressions.OPTIMIZERS, name, made, made)
        elif kind is ModelFn:
            _add(expressions.NAMES["model"], name, made, made)
        else:
            continue
        _ORIGINS[name] = made
        found.append(name)
    return found


_ORIGINS: dict[str, object] = {}


def _add(
    names: typing.MutableMapping[str, typing.Any],
    name: str,
    made: typing.Callable[..., object],
    value: object,
) -> None:
    """Another module's function of a name that is taken is refused."""
    if name in names and _ORIGINS.get(name) is not made:
        raise UsageError(
            f"--import={made.__module__}: {name} is taken; give the function another "
            "name."
        )
    names[name] = value
