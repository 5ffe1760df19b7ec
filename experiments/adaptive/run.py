"""Time, bytes and joules to a target accuracy: every controller on every network.

Each method is run on each network in a directory of its own below `--workdir`; a
finished run is not repeated. All runs share one compiled program, since budgets are its
arguments, and one measurement of what the compressors cost.
"""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
from absl import flags
from jax.experimental.compilation_cache import compilation_cache

from experiments.adaptive.flags import QUICK, define, define_run
from experiments.adaptive.measure import as_ladder, given_ladder, measured_ladder
from experiments.adaptive.methods import METHODS, OURS, RUNGS, make_uplink
from experiments.adaptive.outcome import (
    COLUMNS,
    claims_of,
    compare,
    draw_figures,
    soonest,
    told,
)
from fedjax_comp.algorithms.fed_avg import fed_avg
from fedjax_comp.experiment.comparison import Comparison
from fedjax_comp.experiment.conditions import (
    build_setting,
    counted_training,
    given_costs,
    model_of,
    training_cost,
)
from fedjax_comp.experiment.errors import UsageError
from fedjax_comp.experiment.expressions import build
from fedjax_comp.experiment.fairness import fairness_observed, fairness_of
from fedjax_comp.experiment.finish import execute, read_rows
from fedjax_comp.experiment.outcome import formatted, number
from fedjax_comp.experiment.pipelines import check_names, flags_of, parse_named
from fedjax_comp.experiment.problem import (
    build_federation,
    build_schedule,
    initial_key,
    validation_share,
)
from fedjax_comp.experiment.rates import Tuning
from fedjax_comp.hooks import Hook, Live
from fedjax_comp.network.codec_cost import fixed_bytes
from fedjax_comp.network.simulate import simulate
from fedjax_comp.problem import Problem
from fedjax_comp.report import Run, format_bytes
from fedjax_comp.run_directory import Json, RunDirectoryError, read_json, write_json
from fedjax_comp.training import TrainState, evaluation_program

LADDER_FILE = "ladder.json"
"""What the messages cost, beside the runs."""


class Variant(NamedTuple):
    """A method on a network, `name` being the directory of its run."""

    name: str
    condition: str
    method: str
    network: str
    report_goal: int | None


def parse(values: flags.FlagValues) -> list[Variant]:
    """Every method on every network; mistakes that would show after the first run."""
    form = "'NAME: NETWORK', e.g. '3g: recorded()'"
    conditions = parse_named("condition", values.condition, form)
    for _, (network,) in conditions:
        build("network", network)
    check_names("method", values.method)
    for flag, names, known in (
        ("method", values.method, METHODS),
        ("rung", values.rung, RUNGS),
    ):
        for name in names:
            if name not in known:
                raise UsageError(f"--{flag}={name!r} is none of {', '.join(known)}.")
    if len(values.rung) < 2:
        raise UsageError("--rung: at least two are needed to choose from.")
    for name in values.method:
        if METHODS[name].rung not in (None, *values.rung):
            raise UsageError(
                f"--method={name} needs --rung={METHODS[name].rung}, which is none of "
                f"{', '.join(values.rung)}."
            )
    if values.target_accuracy is None:
        raise UsageError("--target_accuracy is what the methods are compared at.")
    build_schedule(values)
    validation_share(values)
    given = given_costs(values)
    if given is not None:
        counted = values.training_flops is None
        given_ladder(given, values.rung, model_of(values), training=counted)
    variants = []
    for condition, (network,) in conditions:
        for method in values.method:
            share = METHODS[method].report_share
            goal = None if share == 1 else max(1, round(share * values.cohort_size))
            name = f"{condition}/{method}"
            variants.append(Variant(name, condition, method, network, goal))
    return variants


@contextlib.contextmanager
def compiled_once(folder: Path) -> Iterator[None]:
    """Programs that differ in nothing are compiled once, even after a restart.

    Who has a cache already (`JAX_COMPILATION_CACHE_DIR`) keeps it.
    """
    if jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        yield
        return
    # Whether there is a cache is decided once a process, unless it is asked anew.
    compilation_cache.reset_cache()
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    try:
        yield
    finally:
        jax.config.update("jax_compilation_cache_dir", None)
        compilation_cache.reset_cache()


def run_variant(variant: Variant, values: flags.FlagValues) -> tuple[Json, Run]:
    """One run, or its row when it has finished before."""
    own = flags_of(variant, values, define_run())
    folder = shared_folder(values)
    with compiled_once(folder / "compiled"):
        summary = execute(
            f"{COMPARISON.name}.run",
            own,
            lambda: build_problem(own),
            lambda summary: [],
            clock=lambda problem: steering_clock(own, problem, folder / LADDER_FILE),
        )
    rows = read_rows(Path(own.workdir))
    row = {**summary["runs"][0], **fairness_of(rows, own.target_accuracy)}
    return told(row), Run(variant.name, rows)


_PART = re.compile(r"seed-\d+|rate-[^/]+|tuning")
"""Directories of a command below its own, in which runs lie by name."""


def shared_folder(values: flags.FlagValues) -> Path:
    """Where programs and costs are kept that all runs of a command share.

    It is the command's own directory; further seeds and other rates lie below it.
    """
    path = Path(values.workdir)
    shared = path
    while _PART.fullmatch(path.name):
        path = path.parent
        with contextlib.suppress(RunDirectoryError):  # none, or not of a run
            if read_json(path / "config.json").get("experiment") == COMPARISON.name:
                shared = path
    return shared


def steering_clock(
    values: flags.FlagValues, problem: Problem, path: Path
) -> list[Hook]:
    """The clock of one run, whose controller chooses from the measured ladder.

    Args:
      values: the run's flags.
      problem: what is run.
      path: of the ladder, measured where it is not there yet.
    """
    method = METHODS[values.method]
    costs = measured_ladder(
        path,
        values.rung,
        problem.params,
        training=counted_training(values, problem),
        model=model_of(values),
        given=given_costs(values),
    )
    measured = as_ladder(costs, per_leaf=method.per_leaf)
    setting = build_setting(values, problem)
    if setting is None:
        raise UsageError("--devices: the experiment needs devices.")
    setting = setting._replace(
        train_example=training_cost(values, problem.params, costs),
        uplink=measured.codec,
        downlink_bytes=fixed_bytes(problem.links["downlink"], problem.params),
        controller=method.make(measured.ladder),
        ladder=measured.ladder,
    )

    def begin(live: Live, state: TrainState) -> TrainState:
        del live
        if not path.exists():
            write_json(path, costs)
        return state

    hooks = [Hook(begin=begin), simulate(setting, problem)]
    if problem.task is not None:
        execution = build("execution", values.execution)
        hooks.append(fairness_observed(problem.task, execution, problem.data))
    return hooks


def build_problem(values: flags.FlagValues) -> Problem:
    """FedAvg with the ladder on its uplink."""
    federation = build_federation(values)
    uplink = make_uplink(values.rung, per_leaf=METHODS[values.method].per_leaf)
    algorithm = fed_avg(
        federation.task,
        client_optimizer=build("client_optimizer", values.client_optimizer),
        server_optimizer=build("server_optimizer", values.server_optimizer),
        uplink=uplink,
        downlink=federation.downlink,
        execution=federation.execution,
        population=values.num_clients,
    )
    model_key, _ = initial_key(values)
    return Problem(
        algorithm=algorithm,
        sample=federation.sample,
        data=federation.population,
        params=federation.task.init(model_key),
        num_clients=federation.population.spec.num_clients,
        evaluate=evaluation_program(
            federation.task, federation.execution, batch_size=values.eval_batch_size
        ),
        test=federation.population.test,
        links={"uplink": uplink, "downlink": federation.downlink},
        task=federation.task,
    )


COMPARISON = Comparison(
    name="adaptive",
    define=define,
    quick=QUICK,
    repeated=("method", "condition"),
    variants=parse,
    describe=lambda one: one.network,
    run=run_variant,
    columns=COLUMNS,
    compare=compare,
    claims=lambda results: claims_of(results.rows, quick=results.values.quick),
    figures=lambda results: draw_figures(
        results.rows, results.curves, results.figures_path
    ),
    title=lambda values: f"Time to {values.target_accuracy:.1%} on {values.dataset}",
    headlines=lambda rows: {
        f"{one['name']}_sooner_ratio": one["simulated_seconds_to_target_ratio"]
        for one in rows
        if one["method"] in OURS
    },
    word="method",
    shown={
        "rounds": number("rounds_to_target", "{:.1f}"),
        "seconds": number("simulated_seconds_to_target", "{:.1f}"),
        "bytes": formatted("total_bytes_to_target", format_bytes),
        "joules": number("joules_to_target", "{:.0f}"),
        "sooner": number("simulated_seconds_to_target_ratio", "{:.2f}x"),
        "worst tenth": number("worst_tenth_accuracy", "{:.1%}"),
        "worst class": number("worst_class_accuracy", "{:.1%}"),
    },
    caption="to the target; sooner: against the best fixed setting of the network; "
    "worst: at the end",
    order=soonest,
    tuning=Tuning(
        ("client_optimizer",),
        {"validation_share": 0.1},
        least="simulated_seconds_to_target",
    ),
)
main = COMPARISON.main
