"""Several pipelines on one task, side by side: `python -m experiments.fed_avg.compare`.

Each pipeline is a FedAvg run in its own directory below `--workdir` (so the whole is
resumable); the table, the figures and the report lie beside them.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from rich.console import Console
from rich.table import Table as ConsoleTable

from experiments.fed_avg.flags import define
from experiments.fed_avg.privacy import privacy_spent
from experiments.fed_avg.run import build_problem, claims
from fedjax_comp.experiment.finish import execute, read_rows
from fedjax_comp.experiment.flags import apply_quick, as_dict
from fedjax_comp.experiment.main import run_main, use_host_cores
from fedjax_comp.experiment.pipelines import flags_of, parse_pipelines
from fedjax_comp.report import (
    Claim,
    Figure,
    Run,
    Table,
    accuracy_against_bytes,
    accuracy_against_rounds,
    format_bytes,
    write_report,
)
from fedjax_comp.run_directory import Json, open_run, write_json

PIPELINES = (
    "dense: identity() | identity()",
    (
        "compressed: error_feedback(chain(top_k(0.05), stochastic_quantize(levels=16), "
        "entropy_coded())) | chain(stochastic_quantize(levels=256), entropy_coded())"
    ),
)
QUICK = {"num_rounds": 20, "eval_every": 5, "audit_every": 20}
TOLERANCE = 0.02
"""Accuracy a compressed pipeline may lose against the first one and still count."""


def main(argv: Sequence[str] | None = None) -> None:
    """The command: runs every pipeline, then the comparison."""
    values = define()
    values.set_default("num_rounds", 150)
    values.set_default("eval_every", 5)
    values.set_default("audit_every", 50)
    flags.DEFINE_multi_string(
        "pipeline", list(PIPELINES), "NAME: UPLINK | DOWNLINK", flag_values=values
    )

    def body(values: flags.FlagValues) -> None:
        apply_quick(values, **QUICK)
        use_host_cores()
        compare(values)

    run_main("fed_avg.compare", values, body, argv)


def compare(values: flags.FlagValues) -> Json:
    """Runs the pipelines one after another and writes the comparison."""
    pipelines = parse_pipelines(values.pipeline)
    names = [pipeline.name for pipeline in pipelines]
    directory = open_run(values.workdir, "fed_avg.compare", as_dict(values))
    summaries: dict[str, Json] = {}
    runs = []
    for pipeline in pipelines:
        own = flags_of(pipeline, values, define())
        build_own = functools.partial(build_problem, own)
        summaries[pipeline.name] = execute(
            "fed_avg", own, build_own, claims, privacy_spent(own)
        )
        runs.append(Run(pipeline.name, read_rows(Path(own.workdir))))
    result: Json = {
        "experiment": "fed_avg.compare",
        "dataset": values.dataset,
        "model": values.model,
        "pipelines": summaries,
        "claims": comparison_claims(summaries),
    }
    table = comparison_table(summaries)
    figures = directory.figures_path
    by_round = accuracy_against_rounds(runs, figures / "accuracy_against_rounds.png")
    up = accuracy_against_bytes(runs, figures / "accuracy_against_uplink_bytes.png")
    both = accuracy_against_bytes(
        runs,
        figures / "accuracy_against_bytes.png",
        columns=("uplink_bytes", "downlink_bytes"),
    )
    report = write_report(
        directory.path / "report.html",
        title=f"FedAvg on {values.dataset}: {' against '.join(names)}",
        summary={
            f"{name}_accuracy": s["test_accuracy"] for name, s in summaries.items()
        },
        settings={**directory.config["flags"], **directory.config["versions"]},
        tables=[table],
        figures=[
            Figure("Test accuracy against rounds", by_round),
            Figure("Test accuracy against bytes sent by clients", up),
            Figure("Test accuracy against bytes sent, both ways", both),
        ],
        claims=[Claim(**claim) for claim in result["claims"]],
    )
    write_json(directory.path / "summary.json", result)
    print_table(summaries)
    print(f"report: {report}")
    return result


COLUMNS = (
    "pipeline",
    "test_accuracy",
    "best_test_accuracy",
    "rounds",
    "uplink_bytes",
    "downlink_bytes",
    "uplink_ratio",
    "total_ratio",
    "audited_messages",
    "audit_failures",
)


def comparison_table(summaries: dict[str, Json]) -> Table:
    """One row a pipeline; ratios are dense bytes over bytes sent in the same run."""
    rows = []
    for name, s in summaries.items():
        up_ratio, total_ratio = ratios(s)
        rows.append(
            [
                name,
                s["test_accuracy"],
                s["best_test_accuracy"],
                s["rounds"],
                s["uplink_bytes"],
                s["downlink_bytes"],
                round(up_ratio, 2),
                round(total_ratio, 2),
                s["audited_messages"],
                s["audit_failures"],
            ]
        )
    note = "Ratios: bytes of dense float32 messages over the bytes of those sent."
    return Table("Pipelines", COLUMNS, rows, note)


def ratios(summary: Json) -> tuple[float, float]:
    """Dense bytes over bytes sent: on the uplink, and both ways together."""
    dense_up, dense_down = (summary[f"dense_{d}link_bytes"] for d in ("up", "down"))
    up, down = summary["uplink_bytes"], summary["downlink_bytes"]
    return dense_up / max(up, 1), (dense_up + dense_down) / max(up + down, 1)


def comparison_claims(summaries: dict[str, Json]) -> list[Json]:
    """Every pipeline against the first, in accuracy, and all audits."""
    (_, reference), *others = summaries.items()
    made = [
        {
            "name": f"{name} is at most {TOLERANCE:.0%} less accurate than the first",
            "target": reference["best_test_accuracy"] - TOLERANCE,
            "measured": s["best_test_accuracy"],
            "holds": s["best_test_accuracy"]
            >= reference["best_test_accuracy"] - TOLERANCE,
        }
        for name, s in others
    ]
    failures = sum(s["audit_failures"] for s in summaries.values())
    made.append(
        {
            "name": "every audited message decodes bit for bit from its bytes",
            "target": 0,
            "measured": failures,
            "holds": failures == 0,
        }
    )
    return made


def print_table(summaries: dict[str, Json]) -> None:
    """The comparison on the terminal."""
    shown = ConsoleTable(
        title="Pipelines", caption="up, both: how many times fewer bytes than dense"
    )
    shown.add_column("pipeline", no_wrap=True)
    for heading in ("accuracy", "best", "bytes up", "bytes down", "up", "both"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for name, s in summaries.items():
        up, both = ratios(s)
        shown.add_row(
            name,
            f"{s['test_accuracy']:.4f}",
            f"{s['best_test_accuracy']:.4f}",
            format_bytes(s["uplink_bytes"]),
            format_bytes(s["downlink_bytes"]),
            f"{up:.1f}x",
            f"{both:.1f}x",
        )
    Console().print(shown)


if __name__ == "__main__":
    main()
