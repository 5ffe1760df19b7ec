"""Flags of the comparison of dispatchers, and the dispatchers that they name."""

from collections.abc import Sequence
from typing import NamedTuple, cast

from absl import flags

from fedjax_comp.experiment.flags import run_flags
from fedjax_comp.experiment.pipelines import parse_named
from fedjax_comp.expression import parse
from fedjax_comp.one_shot.data_dispatch import Dispatcher, clustered
from fedjax_comp.one_shot.dispatch_baselines import hashed, partition_tree, randomly

DISPATCHERS = (
    "clusters: clustered()",
    "clusters-p2: clustered(2)",
    "clusters-p4: clustered(4)",
    "random: randomly()",
    "tree: partition_tree()",
    "hashing: hashed()",
)
FACTORIES = {
    "clustered": clustered,
    "hashed": hashed,
    "partition_tree": partition_tree,
    "randomly": randomly,
}
GLOBAL = "one model"
"""What one machine with all data is called."""

LARGE = "one model of {} machines' size"
"""What one machine is called that has all data, and a model with as many parameters as
the machines' models together: a hidden layer, as wide as it takes."""


def define() -> flags.FlagValues:
    """All flags of `python -m experiments.data_dispatch`, not yet parsed."""
    values = run_flags()
    text, whole = flags.DEFINE_string, flags.DEFINE_integer
    text("dataset", "mnist", "Data set.", flag_values=values)
    text("model", "linear()", "Each machine's model.", flag_values=values)
    text(
        "client_optimizer",
        "adam(0.003)",
        "Each machine's Optax optimizer.",
        flag_values=values,
    )
    text(
        "large_optimizer",
        "adam(0.001)",
        "Optax optimizer of the one model with as many parameters.",
        flag_values=values,
    )
    flags.DEFINE_multi_integer(
        "num_clients",
        [8, 32],
        "Machines, k; may be repeated. One machine is always measured.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_multi_string(
        "dispatcher",
        list(DISPATCHERS),
        "NAME: DISPATCHER; may be repeated.",
        flag_values=values,
    )
    for name, default, meaning in (
        ("num_train", 20_000, "Training examples, at most."),
        ("num_test", 10_000, "Test examples, at most."),
        ("epochs", 20, "Passes of each machine over its examples."),
        ("batch_size", 32, "Examples in a batch."),
        ("num_trials", 3, "Repetitions with other examples and seeds."),
    ):
        whole(name, default, meaning, flag_values=values, lower_bound=1)
    return values


QUICK = {
    "dataset": "digits",
    "num_clients": [4],
    "dispatcher": [
        "clusters: clustered()",
        "clusters-p2: clustered(2)",
        "random: randomly()",
        "tree: partition_tree()",
        "hashing: hashed()",
    ],
    "client_optimizer": "adam(0.01)",
    "num_trials": 3,
}
"""What `--quick` sets unless it is given by hand."""


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
    form = "'NAME: DISPATCHER', e.g. 'clusters: clustered()'"
    return [
        Named(name, cast(Dispatcher, parse(text, FACTORIES, flag="dispatcher")))
        for name, (text,) in parse_named("dispatcher", texts, form)
    ]
