"""Loss against bytes both ways and seconds on links, for many pipelines on one task."""

import itertools
import math
from pathlib import Path

import jax
from absl import flags

from experiments.diloco.flags import QUICK_FLAGS, define, define_run
from experiments.diloco.plot import loss_against_bytes
from experiments.diloco.seconds import Costs, seconds_to
from experiments.diloco.table import Variant, parse_variants, warm_variant
from experiments.diloco.warm import compressor_of, heard, loaded, saved
from experiments.fed_avg.run import build_problem as build_fed_avg
from fedjax_comp.algorithms.wrappers import gathered
from fedjax_comp.base import PyTree
from fedjax_comp.experiment.comparison import Comparison, Results, run_of
from fedjax_comp.experiment.errors import UsageError
from fedjax_comp.experiment.expressions import build
from fedjax_comp.experiment.finish import execute, read_rows
from fedjax_comp.experiment.outcome import (
    claim,
    facts_of,
    failure_claims,
    formatted,
    number,
    ratio,
    table_of,
)
from fedjax_comp.experiment.pipelines import flags_of
from fedjax_comp.network.training_cost import gradient_flops
from fedjax_comp.problem import Problem
from fedjax_comp.report import Figure, Run, Table, format_bytes
from fedjax_comp.run_directory import Json, RunDirectory
from fedjax_comp.tree import size

COLUMNS = (
    "num_clients",
    "local_steps",
    "test_loss",
    "perplexity",
    "higher_loss_percent",
    "worker_bytes_sent",
    "worker_bytes_received",
    "worker_bytes_ratio",
    "after_warm_start_ratio",
    "test_accuracy",
    "audited_messages",
    "algorithm",
    "uplink",
    "downlink",
    "gathered",
    "server_optimizer",
)
RATIOS = ("worker_bytes_ratio", "after_warm_start_ratio")
"""How many times fewer bytes: with the warm start's, and without them. A claim of so
many times fewer needs both, since the second phase alone is what a pipeline is."""

_LOST = 700.0  # a loss whose exponential is beyond every float
HIGHER_PERCENT = 2.0
"""How much higher than the first pipeline's a loss may be, for claims."""
SECONDS_PERCENT = (HIGHER_PERCENT, 5.0)
"""How much higher it may be for the seconds."""


def parse(values: flags.FlagValues) -> list[Variant]:
    """The pipelines; what all of them share is built once, to find mistakes."""
    variants = parse_variants(values)
    for name in ("warm_batch", "warm_message", "warm_optimizer"):
        if not values.warm_steps and values[name].present:
            raise UsageError(f"--{name} needs --warm_steps above 0.")
    compressor_of(values)
    build_fed_avg(_flags_of(variants[0], values))
    return variants


def _flags_of(variant: Variant, values: flags.FlagValues) -> flags.FlagValues:
    return flags_of(variant, values, define_run())


def run_variant(variant: Variant, values: flags.FlagValues) -> tuple[Json, Run]:
    """One pipeline's run from the warm start, which the first of them makes."""
    start, warm_flops, dense_bytes = None, 0.0, 0
    if values.warm_steps:
        own = _flags_of(warm_variant(values), values)
        warm = _execute(own, None)
        start = Path(own.workdir)
        warm_flops, dense_bytes = warm["step_flops"], warm["uplink_bytes"]
    own = _flags_of(variant, values)
    summary = _execute(own, start)
    curve = run_of(variant.name, own.workdir)
    last = read_rows(Path(own.workdir))[-1]
    costs = Costs(
        workers=variant.num_clients,
        local_steps=variant.local_steps,
        step_flops=summary["step_flops"],
        warm_flops=values.warm_steps * warm_flops,
        # Directories from before `--warm_message` do not say: there it was dense.
        warm_bytes=summary.get("warm_bytes", dense_bytes),
        hidden_steps=build("algorithm", variant.algorithm).own.get("delay", 0),
    )
    if variant.local_steps == 1 and variant.uplink == "identity()":
        # Data-parallel from its first step: the warm start is its own beginning.
        costs = costs._replace(
            warm_flops=values.warm_steps * summary["step_flops"],
            warm_bytes=round(values.warm_steps * costs.bytes_a_round(last)),
        )
    (row,) = summary["runs"]
    loss = last["test_loss"]
    own_row = {
        **row,
        "name": variant.name,
        "test_loss": loss,
        "perplexity": None if loss is None or loss > _LOST else math.exp(loss),
        "worker_bytes": costs.bytes_at(last),
        "worker_bytes_sent": last["uplink_bytes"] / variant.num_clients,
        "worker_bytes_received": last["downlink_bytes"] / variant.num_clients,
        "audited_messages": summary["audited_messages"],
        "audit_failures": summary["audit_failures"],
        "costs": costs._asdict(),
    }
    return own_row, Run(variant.name, costs.told(curve.rows))


def _execute(own: flags.FlagValues, start: Path | None) -> Json:
    facts: Json = {}

    def build_own() -> Problem:
        problem, found = build_run(own, start)
        facts.update(found)
        return problem

    def keep(directory: RunDirectory, params: PyTree) -> Json:
        saved(directory.path, params)
        return facts

    return execute(
        "diloco", own, build_own, lambda summary: failure_claims("run", []), keep
    )


def build_run(own: flags.FlagValues, start: Path | None) -> tuple[Problem, Json]:
    """What one run's flags describe.

    Args:
      own: the flags.
      start: the directory of the run from whose model it begins, as that is told.
    """
    problem = build_fed_avg(own)
    params, told = problem.params, 0
    if start is not None:
        params, told = heard(loaded(start), compressor_of(own), own.seed)
    algorithm = problem.algorithm
    if own.gathered:
        algorithm = gathered(algorithm, population=own.num_clients)
    step = max(1, problem.test.y.shape[0] // own.test_examples)
    test = jax.tree.map(lambda x: x[::step][: own.test_examples], problem.test)
    assert problem.task is not None
    each = gradient_flops(
        problem.task, params, problem.data.examples, batch_size=own.batch_size
    )
    facts = {
        "step_flops": each * own.batch_size,
        "num_parameters": size(params),
        "warm_bytes": told,
    }
    problem = problem._replace(algorithm=algorithm, params=params, test=test)
    return problem, facts


def compare(rows: list[Json]) -> None:
    """Adds to each row what it is against the first."""
    first = rows[0]
    for row in rows:
        row["worker_bytes_ratio"] = ratio(
            first.get("worker_bytes"), row.get("worker_bytes")
        )
        row["after_warm_start_ratio"] = ratio(_later(first), _later(row))
        if row.get("test_loss") and first.get("test_loss"):
            higher = row["test_loss"] / first["test_loss"] - 1
            row["higher_loss_percent"] = 100 * higher


def _later(row: Json) -> float | None:
    """The bytes of one worker behind the warm start, both ways."""
    ways = (row.get(f"worker_bytes_{way}") for way in ("sent", "received"))
    known = [each for each in ways if each is not None]
    return sum(known) if known else None


def add_seconds(results: Results) -> None:
    """Adds to each row its seconds to a loss, on every rate of `--megabits`."""
    values, first = results.values, results.rows[0]
    if not first.get("test_loss"):
        return
    curves = {curve.name: curve.rows for curve in results.curves}
    for row in results.rows:
        if row["name"] in curves:
            costs = Costs(**row["costs"])
            for higher, rate in itertools.product(SECONDS_PERCENT, values.megabits):
                row[seconds_column(higher, rate)] = seconds_to(
                    first["test_loss"] * (1 + higher / 100),
                    curves[row["name"]],
                    costs,
                    rate,
                    values.flops_per_second,
                )


def seconds_column(higher: float, megabits: float) -> str:
    """What the seconds on links of a rate, to a loss, are called in a row.

    >>> seconds_column(2.0, 10.0)
    'seconds_to_2_percent_at_10_megabits'
    """
    return f"seconds_to_{higher:g}_percent_at_{megabits:g}_megabits"


def claims(results: Results) -> list[Json]:
    """That nothing failed; of a whole run, what the least loss is for few bytes."""
    made = failure_claims("pipeline", results.rows)
    if results.values.quick:
        return made
    for fewer in (100, 1000):
        losses = [
            row["higher_loss_percent"]
            for row in results.rows[1:]
            if min(row[name] or 0 for name in RATIOS) >= fewer
            and row.get("higher_loss_percent") is not None
        ]
        made += claim(
            f"percent of loss above the first, least with {fewer} times fewer bytes",
            HIGHER_PERCENT,
            min(losses, default=None),
            at_most=True,
        )
    return made


def figures(results: Results) -> list[Figure | None]:
    """Loss against bytes."""
    if not results.curves:
        return []
    path = results.figures_path / "loss_against_bytes.png"
    return [loss_against_bytes(results.curves, path)]


def _tables(results: Results) -> list[Table]:
    made = []
    for higher in SECONDS_PERCENT:
        columns = [seconds_column(higher, rate) for rate in results.values.megabits]
        title = f"Seconds to {higher:g} % above the first one's loss"
        made.append(table_of(title, ("name", *columns), results.rows))
    return made


COMPARISON = Comparison(
    name="diloco",
    define=define,
    quick=QUICK_FLAGS,
    repeated=("pipeline",),
    variants=parse,
    describe=lambda one: f"{one.num_clients} x {one.local_steps}, {one.algorithm}",
    run=run_variant,
    columns=COLUMNS,
    complete=add_seconds,
    compare=compare,
    claims=claims,
    facts=lambda results: {
        **facts_of(results.values),
        "flops_per_second": results.values.flops_per_second,
    },
    figures=figures,
    tables=_tables,
    title=lambda values: f"Loss against bytes on {values.dataset}",
    shown={
        "loss": number("test_loss", "{:.4f}"),
        "perplexity": number("perplexity", "{:.3f}"),
        "higher": number("higher_loss_percent", "{:.1f} %"),
        "sent": formatted("worker_bytes_sent", format_bytes),
        "received": formatted("worker_bytes_received", format_bytes),
        "fewer": number("worker_bytes_ratio", "{:.0f}x"),
        "later": number("after_warm_start_ratio", "{:.0f}x"),
    },
    caption=(
        "sent, received: by one worker after the warm start\n"
        "fewer, later: than the first, with the warm start's bytes and without"
    ),
)
main = COMPARISON.main
