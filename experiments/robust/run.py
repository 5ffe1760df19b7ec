"""Bad clients against the mean and against robust aggregators."""

import functools
from collections.abc import Callable, Mapping, Sequence

from absl import flags

from experiments.robust.attacks import nothing
from experiments.robust.flags import (
    NO_ATTACK,
    QUICK,
    NamedAttack,
    define,
    parse_attacks,
    parse_rules,
)
from experiments.robust.outcome import COLUMNS, claims, figures, summarise
from experiments.robust.rounds import make_measure
from fedjax_comp.experiment.errors import UsageError
from fedjax_comp.experiment.measurements import Measurements
from fedjax_comp.run_directory import Json


def make_jobs(values: flags.FlagValues) -> Mapping[str, Callable[[], Json]]:
    """Every measurement by its name, trial after trial."""
    rules = parse_rules(values.aggregator, values.num_clients)
    attacks = parse_attacks(values.attack)
    if NO_ATTACK in {one.name for one in attacks}:
        raise UsageError(f"--attack: {NO_ATTACK!r} is the name of no attack at all.")
    counts = sorted(set(values.bad_clients))
    if counts[-1] > values.num_clients:
        raise UsageError(
            f"--bad_clients={counts[-1]} is more than --num_clients="
            f"{values.num_clients}."
        )
    attacks = [NamedAttack(NO_ATTACK, nothing()), *attacks]
    measure = make_measure(values, attacks)
    return {
        f"{rule.name}, {count} bad, {attack.name}, trial {trial}": functools.partial(
            measure, rule, which, count, trial
        )
        for trial in range(values.num_trials)
        for rule in rules
        for which, attack in enumerate(attacks)
        for count in ([0] if attack.name == NO_ATTACK else counts)
    }


def headlines(rows: Sequence[Json]) -> Json:
    """What a report shows first: the worst that each aggregator came to."""
    names = dict.fromkeys(row["aggregator"] for row in rows)
    return {
        f"{name}_least_accuracy": min(
            row["test_accuracy"] for row in rows if row["aggregator"] == name
        )
        for name in names
    }


MEASUREMENTS = Measurements(
    name="robust",
    define=define,
    quick=QUICK,
    jobs=make_jobs,
    repeated=("num_trials",),
    summarise=summarise,
    columns=COLUMNS,
    claims=claims,
    figures=figures,
    title=lambda values: f"Bad clients of {values.num_clients} on {values.dataset}",
    headlines=headlines,
    note="Means over trials.",
    show=lambda row: f"{row['name']:<50}{row['test_accuracy']:.4f}",
)
main = MEASUREMENTS.main
