"""Pipelines on one task, side by side: `python -m experiments.fed_avg.compare`."""

import functools

from absl import flags

from experiments.fed_avg.flags import define as define_run
from experiments.fed_avg.privacy import privacy_spent
from experiments.fed_avg.run import build_problem, check_task, claims
from fedjax_comp.experiment.clients import (
    CLIENT_COLUMNS,
    CLIENTS_FILE,
    accuracy_of_clients,
)
from fedjax_comp.experiment.comparison import Comparison, Results, run_of
from fedjax_comp.experiment.finish import SPENT, execute
from fedjax_comp.experiment.outcome import (
    add_ratios,
    claim,
    failure_claims,
    formatted,
    number,
)
from fedjax_comp.experiment.pipelines import Pipeline, flags_of, parse_pipelines
from fedjax_comp.experiment.rates import Tuning
from fedjax_comp.report import (
    Figure,
    Run,
    accuracy_against_bytes,
    accuracy_against_rounds,
    format_bytes,
)
from fedjax_comp.run_directory import Json

LOW_RANK = "coded_low_rank(2.0, max_rank=16, symbols_per_lane=4096)"
PIPELINES = (
    "dense: identity() | identity()",
    f"compressed: error_feedback({LOW_RANK}) | {LOW_RANK} | fed_avg(unicast=True)",
)
MAIN_JOB = {
    "num_clients": 50,
    "model": "cnn((16, 32), hidden=128)",
    "local_epochs": 5,
    "num_rounds": 80,
    "eval_every": 5,
    "audit_every": 40,
}
"""What `make run` trains, with McMahan et al.'s 5 local epochs in batches of 10."""
TOLERANCE = 0.02
"""Accuracy a compressed pipeline may lose against the first one and still count."""

COLUMNS = (
    "test_accuracy",
    "best_test_accuracy",
    "rounds",
    "uplink_bytes",
    "downlink_bytes",
    "total_bytes",
    "uplink_bytes_ratio",
    "total_bytes_ratio",
    "rounds_to_target",
    "total_bytes_to_target",
    "audited_messages",
    "audit_failures",
    "algorithm",
    "uplink",
    "downlink",
)


def define() -> flags.FlagValues:
    """All flags of the command, not yet parsed."""
    values = define_run()
    for name, value in MAIN_JOB.items():
        values.set_default(name, value)
    flags.DEFINE_multi_string(
        "pipeline",
        list(PIPELINES),
        "NAME: UPLINK | DOWNLINK [| ALGORITHM]",
        flag_values=values,
    )
    return values


def parse(values: flags.FlagValues) -> list[Pipeline]:
    """The pipelines; what all of them share is built once, to find mistakes."""
    if values.local_steps is not None and values["local_epochs"].using_default_value:
        values.set_default("local_epochs", 1)  # nobody has asked for epochs
    pipelines = parse_pipelines(values.pipeline, values.algorithm)
    check_task(values, pipelines)
    return pipelines


def run_pipeline(pipeline: Pipeline, values: flags.FlagValues) -> tuple[Json, Run]:
    """One pipeline's run, or its results when it has finished before."""
    own = flags_of(pipeline, values, define_run())
    build_own = functools.partial(build_problem, own)
    summary = execute("fed_avg", own, build_own, claims, privacy_spent(own))
    (row,) = summary["runs"]
    audits = ("audited_messages", "audit_failures")
    row |= {name: summary[name] for name in audits}
    return {**row, "name": pipeline.name}, run_of(pipeline.name, own.workdir)


def accuracy_claims(results: Results) -> list[Json]:
    """Every pipeline against the first, in accuracy, and all audits."""
    reference, *others = results.rows
    made = failure_claims("pipeline", results.rows)
    if reference["reason"]:
        return made
    for one in others:
        made += claim(
            f"{one['name']} is at most {TOLERANCE:.0%} less accurate than the first",
            reference["best_test_accuracy"] - TOLERANCE,
            one["best_test_accuracy"],
            at_least=True,
        )
    return made


def figures(results: Results) -> list[Figure]:
    """Test accuracy against rounds, bytes up, and bytes both ways."""
    runs, folder = results.curves, results.figures_path
    if not runs:
        return []
    by_round = accuracy_against_rounds(runs, folder / "accuracy_against_rounds.png")
    up = accuracy_against_bytes(runs, folder / "accuracy_against_uplink_bytes.png")
    both = accuracy_against_bytes(
        runs,
        folder / "accuracy_against_bytes.png",
        columns=("uplink_bytes", "downlink_bytes"),
    )
    drawn = [
        Figure("Test accuracy against rounds", by_round),
        Figure("Test accuracy against bytes sent by clients", up),
        Figure("Test accuracy against bytes sent, both ways", both),
    ]
    if results.values.evaluate_clients is not None:
        of_each = {run.name: results.workdirs[run.name] for run in runs}
        # One that failed with the first seed has a curve all the same, of the others.
        known = {n: p for n, p in of_each.items() if (p / CLIENTS_FILE).exists()}
        words = f"Accuracy of each client, the lowest first, seed {results.values.seed}"
        if known:
            path = accuracy_of_clients(known, folder / "client_accuracy.png")
            drawn.append(Figure(words, path))
    return drawn


COMPARISON = Comparison(
    name="fed_avg.compare",
    define=define,
    quick={
        "model": "mlp(200, 200)",
        "local_epochs": 1,
        "num_rounds": 20,
        "audit_every": 20,
    },
    repeated=("pipeline",),
    variants=parse,
    describe=lambda one: " | ".join(one[1:]),
    run=run_pipeline,
    columns=COLUMNS,
    where_known=(*CLIENT_COLUMNS, *SPENT),
    compare=lambda rows: add_ratios(rows, "uplink_bytes", "total_bytes"),
    claims=accuracy_claims,
    figures=figures,
    title=lambda values: f"Pipelines on {values.dataset}",
    headlines=lambda rows: {
        f"{one['name']}_accuracy": one["test_accuracy"] for one in rows
    },
    shown={
        "accuracy": number("test_accuracy", "{:.4f}"),
        "best": number("best_test_accuracy", "{:.4f}"),
        "bytes up": formatted("uplink_bytes", format_bytes),
        "bytes down": formatted("downlink_bytes", format_bytes),
        "up": number("uplink_bytes_ratio", "{:.1f}x"),
        "both": number("total_bytes_ratio", "{:.1f}x"),
    },
    caption="up, both: how many times fewer bytes than the first",
    tuning=Tuning(("client_optimizer",), {"validation_share": 0.1}),
)
main = COMPARISON.main

if __name__ == "__main__":
    main()
