"""Time, bytes and joules to a target accuracy: every controller on every network.

Each method is run on each network, once for each seed, in a directory of its own below
`--workdir`; what has finished is not run again. All share one compiled program, since
budgets are its arguments, and one measurement of what the compressors cost.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
from absl import flags
from jax.experimental.compilation_cache import compilation_cache

from experiments.adaptive.flags import QUICK, define, define_run
from experiments.adaptive.measure import as_ladder, measured_ladder
from experiments.adaptive.methods import METHODS, RUNGS, make_uplink
from experiments.adaptive.outcome import (
    COLUMNS,
    adaptive_claims,
    add_comparisons,
    mean_outcome,
    outcome_of,
    print_table,
)
from experiments.adaptive.plot import draw_figures
from fedjax_comp.algorithms.fed_avg import fed_avg
from fedjax_comp.experiment.conditions import build_setting
from fedjax_comp.experiment.expressions import build
from fedjax_comp.experiment.finish import read_rows
from fedjax_comp.experiment.flags import apply_quick, as_dict
from fedjax_comp.experiment.main import UsageError, run_main, use_host_cores
from fedjax_comp.experiment.pipelines import check_names, flags_of, split_name
from fedjax_comp.experiment.problem import (
    Federation,
    build_federation,
    build_schedule,
    initial_key,
)
from fedjax_comp.experiment.table import to_csv
from fedjax_comp.metrics import Row
from fedjax_comp.network.codec_cost import fixed_bytes
from fedjax_comp.network.simulate import simulate
from fedjax_comp.report import Claim, Run, Table, write_report
from fedjax_comp.run import Problem
from fedjax_comp.run import run as run_problem
from fedjax_comp.run_directory import (
    Json,
    RunDirectory,
    begin_run,
    find_run,
    open_run,
    write_json,
    write_text,
)
from fedjax_comp.training import evaluation_program

NAME = "adaptive"
COSTS = "ladder.json"


class Condition(NamedTuple):
    """A named network."""

    name: str
    network: str


class Variant(NamedTuple):
    """One run: the flags in which it differs, `name` being its directory."""

    name: str
    method: str
    network: str
    seed: int
    costs: str
    report_goal: int | None


def main(argv: Sequence[str] | None = None) -> None:
    """The command: runs every method on every network, then compares them."""

    def body(values: flags.FlagValues) -> None:
        apply_quick(values, **QUICK)
        use_host_cores()
        run(values)

    run_main(NAME, define(), body, argv)


def run(values: flags.FlagValues) -> Json:
    """Runs all that has not run yet and writes the comparison; `ValueError`s."""
    conditions = [parse_condition(text) for text in values.condition]
    check_names("condition", [condition.name for condition in conditions])
    check_names("method", values.method)
    check_flags(values)
    settings = as_dict(values)
    for name in ("method", "condition", "num_seeds"):
        del settings[name]  # further ones may be added to a directory
    directory = open_run(values.workdir, NAME, settings)
    with compiled_once(directory.path / "compiled"):
        return run_all(directory, conditions, values)


@contextlib.contextmanager
def compiled_once(folder: Path) -> Iterator[None]:
    """Programs that differ in nothing are compiled once, even after a restart."""
    # Whether there is a cache is decided once a process, unless it is asked anew.
    compilation_cache.reset_cache()
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    try:
        yield
    finally:
        jax.config.update("jax_compilation_cache_dir", None)
        compilation_cache.reset_cache()


def run_all(
    directory: RunDirectory, conditions: Sequence[Condition], values: flags.FlagValues
) -> Json:
    """Every method on every network, and the comparison of them all."""
    outcomes: list[Json] = []
    curves: dict[str, list[Run]] = {}
    for condition in conditions:
        own: list[Json] = []
        for method in values.method:
            seeds = []
            for seed in range(values.seed, values.seed + values.num_seeds):
                name = f"{condition.name}/{method}/{seed}"
                summary = run_one(name, method, condition, seed, values)
                seeds.append(outcome_of(summary))
                if seed == values.seed:
                    rows = read_rows(directory.path / name)
                    curves.setdefault(condition.name, []).append(Run(method, rows))
            own.append(mean_outcome(condition.name, method, seeds))
        add_comparisons(own)
        outcomes += own
    summary = {
        "experiment": NAME,
        "dataset": values.dataset,
        "model": values.model,
        "target_accuracy": values.target_accuracy,
        "outcomes": outcomes,
        "claims": adaptive_claims(outcomes),
    }
    figures = draw_figures(outcomes, curves, directory.figures_path)
    write_text(directory.path / "table.csv", to_csv(COLUMNS, outcomes))
    report = write_report(
        directory.path / "report.html",
        title=f"Time to {values.target_accuracy:.1%} on {values.dataset}",
        summary={claim["name"]: claim["measured"] for claim in summary["claims"]},
        settings={
            **directory.config["flags"],
            **directory.config["versions"],
            "git_commit": directory.config["git_commit"],
        },
        tables=[Table("Methods", COLUMNS, [[o[c] for c in COLUMNS] for o in outcomes])],
        figures=figures,
        claims=[Claim(**claim) for claim in summary["claims"]],
    )
    write_json(directory.path / "summary.json", summary)
    print_table(outcomes)
    print(f"report: {report}")
    return summary


def parse_condition(text: str) -> Condition:
    """Reads `NAME: NETWORK`; `ValueError` when it is not of that form."""
    name, network = split_name(text)
    if not name or not network:
        raise UsageError(
            f"--condition={text!r} is not of the form 'NAME: NETWORK', e.g. "
            "'3g: recorded()'."
        )
    build("network", network)
    return Condition(name, network)


def check_flags(values: flags.FlagValues) -> None:
    """Mistakes that would otherwise show after the first run."""
    for method in values.method:
        if method not in METHODS:
            raise UsageError(f"--method={method!r} is none of {', '.join(METHODS)}.")
    for rung in values.rung:
        if rung not in RUNGS:
            raise UsageError(f"--rung={rung!r} is none of {', '.join(RUNGS)}.")
    if len(values.rung) < 2:
        raise UsageError("--rung: at least two are needed to choose from.")
    if values.target_accuracy is None:
        raise UsageError("--target_accuracy is what the methods are compared at.")
    build("client_optimizer", values.client_optimizer)
    build("devices", values.devices)


def run_one(
    name: str, method: str, condition: Condition, seed: int, values: flags.FlagValues
) -> Json:
    """One run, or its summary when it has finished before."""
    share = METHODS[method].report_share
    variant = Variant(
        name=name,
        method=method,
        network=condition.network,
        seed=seed,
        costs=str(Path(values.workdir) / COSTS),
        report_goal=None if share == 1 else max(1, round(share * values.cohort_size)),
    )
    own = flags_of(variant, values, define_run())
    settings = as_dict(own)
    del settings["costs"]
    directory = find_run(own.workdir, f"{NAME}.run", settings)
    if directory.finished is not None:
        return directory.finished
    problem = build_problem(own)
    costs = measured_ladder(Path(own.costs), own.rung, problem.params)
    measured = as_ladder(costs, per_leaf=METHODS[method].per_leaf)
    setting = build_setting(own, problem.num_clients, problem.params)
    if setting is None:
        raise UsageError("--devices: the experiment needs devices.")
    setting = setting._replace(
        uplink=measured.codec,
        downlink_bytes=fixed_bytes(problem.links["downlink"], problem.params),
        controller=METHODS[method].make(measured.ladder),
        ladder=measured.ladder,
    )
    schedule, clock = build_schedule(own), simulate(setting, problem)
    _, run_key = initial_key(own)
    if not Path(own.costs).exists():
        write_json(Path(own.costs), costs)
    begin_run(directory)
    ledger, _, summary = run_problem(
        directory,
        problem,
        schedule,
        run_key,
        hooks=[clock],
        show_progress=own.progress,
    )
    result: Json = {
        "experiment": f"{NAME}.run",
        "method": method,
        "network": condition.network,
        **summary,
        "to_target": to_target(ledger.rows, own.target_accuracy),
    }
    write_json(directory.path / "summary.json", result)
    print(
        f"{name}: {summary['rounds']} rounds, accuracy "
        f"{summary['best_test_accuracy']:.4f}, {summary['simulated_seconds']:.0f} s "
        f"simulated in {summary['seconds_total']:.0f} s",
        flush=True,
    )
    return result


def to_target(rows: Sequence[Row], target: float) -> Row | None:
    """The first row that reached the target, or None."""
    reached = (row for row in rows if row["test_accuracy"] >= target)
    return next(reached, None)


def build_problem(values: flags.FlagValues) -> Problem:
    """FedAvg with the ladder on its uplink."""
    federation: Federation = build_federation(values)
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
    )
