"""Flags of the comparison of aggregators, and what they name."""

from collections.abc import Sequence
from typing import NamedTuple, cast

from absl import flags

from experiments.robust.attacks import FACTORIES, Attack
from fedjax_comp.experiment.algorithms import AGGREGATORS
from fedjax_comp.experiment.errors import UsageError
from fedjax_comp.experiment.flags import run_flags
from fedjax_comp.experiment.pipelines import parse_named
from fedjax_comp.expression import parse
from fedjax_comp.server.robust import Aggregator


def mean() -> Aggregator:
    """The weighted mean, which is not robust."""
    return Aggregator()


RULES = (
    "mean: mean()",
    "median: median()",
    "trimmed-mean: trimmed_mean(0.4)",
    "krum: krum(8)",
    "multi-krum: krum(8, kept=10)",
    "norm-bound: norm_bound(0.5)",
    "geometric-median: geometric_median()",
)
"""As they are told of at most 8 bad clients of 20, under every attack alike."""

ATTACKS = (
    "sign-flip: sign_flip(4.0)",
    "gaussian: gaussian(1.0)",
    "label-flip: label_flip()",
    "NaN: not_a_number()",
    "1e38: constant(1e38)",
)
NO_ATTACK = "none"
"""What it is called when all clients are good."""


def define() -> flags.FlagValues:
    """All flags of `python -m experiments.robust`, not yet parsed."""
    values = run_flags()
    text, whole = flags.DEFINE_string, flags.DEFINE_integer
    for name, default, meaning in (
        ("dataset", "digits", "Data set."),
        ("partition", "iid()", "How examples are split over clients."),
        ("model", "mlp(64)", "The model, as a Python call."),
        ("client_optimizer", "sgd(0.1)", "Optax optimizer of the clients."),
        ("execution", "auto()", "How a cohort is run."),
    ):
        text(name, default, meaning, flag_values=values)
    flags.DEFINE_multi_string(
        "aggregator",
        list(RULES),
        "NAME: AGGREGATOR; may be repeated.",
        flag_values=values,
    )
    flags.DEFINE_multi_string(
        "attack",
        list(ATTACKS),
        "NAME: ATTACK; may be repeated. No attack is always measured.",
        flag_values=values,
    )
    flags.DEFINE_multi_integer(
        "bad_clients",
        [2, 4, 8],
        "How many clients are bad; may be repeated.",
        flag_values=values,
        lower_bound=1,
    )
    for name, number, meaning in (
        ("num_clients", 20, "Clients, K; all of them are in every round."),
        ("num_train", 60_000, "Training examples, at most."),
        ("num_rounds", 60, "Rounds."),
        ("local_epochs", 1, "Local epochs, E."),
        ("batch_size", 10, "Local batch size, B."),
        ("num_trials", 3, "Repetitions with other seeds."),
    ):
        whole(name, number, meaning, flag_values=values, lower_bound=1)
    return values


QUICK = {
    "num_rounds": 30,
    "num_trials": 1,
    "bad_clients": [4],
    "aggregator": [RULES[0], RULES[1], RULES[3]],
    "attack": [ATTACKS[0], ATTACKS[4]],
}
"""What `--quick` sets unless it is given by hand."""


class Rule(NamedTuple):
    """An aggregator and what it is called."""

    name: str
    aggregator: Aggregator


class NamedAttack(NamedTuple):
    """An attack and what it is called."""

    name: str
    attack: Attack


def parse_rules(texts: Sequence[str], num_clients: int) -> list[Rule]:
    """All values of `--aggregator`.

    Args:
      texts: each `NAME: AGGREGATOR`.
      num_clients: `K`; an aggregator may need more.

    Raises:
      ValueError: when one is not of that form, an expression is not valid, two have
        one name, or there are too few clients.

    >>> [rule.name for rule in parse_rules(["mine: median()"], 3)]
    ['mine']
    """
    form = "'NAME: AGGREGATOR', e.g. 'median: median()'"
    names = {**AGGREGATORS, "mean": mean}
    rules = []
    for name, (text,) in parse_named("aggregator", texts, form):
        made = cast(Aggregator, parse(text, names, flag="aggregator"))
        if num_clients < made.min_clients:
            raise UsageError(
                f"--aggregator={name}: {text} needs at least {made.min_clients} "
                f"clients, and there are --num_clients={num_clients}."
            )
        rules.append(Rule(name, made))
    return rules


def parse_attacks(texts: Sequence[str]) -> list[NamedAttack]:
    """All values of `--attack`.

    Raises:
      ValueError: as `parse_rules`.

    >>> [one.name for one in parse_attacks(["flip: sign_flip(4.0)"])]
    ['flip']
    """
    form = "'NAME: ATTACK', e.g. 'flip: sign_flip(4.0)'"
    return [
        NamedAttack(name, cast(Attack, parse(text, FACTORIES, flag="attack")))
        for name, (text,) in parse_named("attack", texts, form)
    ]
