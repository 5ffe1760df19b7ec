"""Dispatchers, read from flags."""

from collections.abc import Sequence
from typing import NamedTuple, cast

from fedjax_comp.experiment.main import UsageError
from fedjax_comp.experiment.pipelines import check_names, split_name
from fedjax_comp.expression import parse
from fedjax_comp.one_shot.data_dispatch import Dispatcher, clustered
from fedjax_comp.one_shot.dispatch_baselines import hashed, partition_tree, randomly

FACTORIES = {
    "clustered": clustered,
    "hashed": hashed,
    "partition_tree": partition_tree,
    "randomly": randomly,
}
GLOBAL = "one model"


class Named(NamedTuple):
    """A dispatcher and what it is called."""

    name: str
    dispatch: Dispatcher


def parse_dispatchers(texts: Sequence[str]) -> list[Named]:
    """All values of `--dispatcher`.

    Args:
      texts: each `NAME: DISPATCHER`.

    Raises:
      ValueError: when one is not of that form, an expression is not valid, or two have
        one name.

    >>> parse_dispatchers(["mine: clustered(2)"])[0].name
    'mine'
    """
    found = []
    for text in texts:
        name, expression = split_name(text)
        if not name or not expression:
            raise UsageError(
                f"--dispatcher={text!r} is not of the form 'NAME: DISPATCHER', e.g. "
                "'clusters: clustered()'."
            )
        made = parse(expression, FACTORIES, flag="dispatcher")
        found.append(Named(name, cast(Dispatcher, made)))
    check_names("dispatcher", [one.name for one in found])
    return found
