"""Averaging protocols on one stream: cumulative loss against bytes."""

import functools
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from experiments.dynamic_averaging.claims import NEARLY_ALL, claims_of
from experiments.dynamic_averaging.flags import QUICK, define, define_run
from experiments.dynamic_averaging.grading import add_grades, bytes_by_level
from experiments.dynamic_averaging.plot import draw_figures
from experiments.dynamic_averaging.protocols import (
    Lazy,
    Rule,
    Variant,
    build_rule,
    common_period,
    parse_variants,
)
from experiments.dynamic_averaging.stream import build_stream, num_updates
from fedjax_comp.algorithms.lazy_gradients import lazy_gradients, lazy_links
from fedjax_comp.algorithms.model_averaging import averaging_links, model_averaging
from fedjax_comp.algorithms.wrappers import unsent
from fedjax_comp.data.streams import drift_times, one_learner
from fedjax_comp.experiment.comparison import Comparison, Results
from fedjax_comp.experiment.expressions import build
from fedjax_comp.experiment.finish import execute, read_rows
from fedjax_comp.experiment.outcome import (
    add_ratios,
    failure_claims,
    formatted,
    number,
)
from fedjax_comp.experiment.pipelines import flags_of
from fedjax_comp.experiment.problem import initial_key, keeps_messages
from fedjax_comp.experiment.rates import Tuning
from fedjax_comp.metrics import Row
from fedjax_comp.report import Run, Table, format_bytes
from fedjax_comp.run import Problem
from fedjax_comp.run_directory import Json
from fedjax_comp.training import evaluation_program

NAME = "dynamic_averaging"

COLUMNS = (
    "family",
    "protocol",
    "cumulative_loss",
    "loss_increase",
    "benefit_kept",
    "total_bytes",
    "total_bytes_ratio",
    "fixed_ratio",
    "rival",
    "rival_ratio",
    "uplink_bytes",
    "downlink_bytes",
    "models_sent",
    "full_synchronisations",
    "violations",
    "test_accuracy",
    "audited_messages",
    "audit_failures",
    "uplink",
    "downlink",
)
"""`loss_increase` is one's loss over that of the first protocol, less 1; `models_sent`
is how many a learner sent; those from `benefit_kept` to `rival_ratio` are in `grading`.
"""


def parse(values: flags.FlagValues) -> list[Variant]:
    """The protocols; the stream that all share is built once, to find mistakes."""
    variants = parse_variants(
        values.protocol, uplink=values.uplink, downlink=values.downlink
    )
    values["num_updates"].value = num_updates(values, common_period(variants))
    build_stream(values).cut(1)
    return variants


def run_variant(variant: Variant, values: flags.FlagValues) -> tuple[Json, Run]:
    """One protocol's run, or its results when it has finished before."""
    rule = build_rule(variant.protocol)
    own = flags_of(variant, values, define_run())
    own["num_rounds"].value = own.num_updates // rule.every
    for name in ("eval_every", "checkpoint_every", "audit_every"):
        own[name].value = -(-getattr(values, name) // rule.every)
    build_own = functools.partial(build_problem, own)
    summary = execute(NAME, own, build_own, audit_claims)
    rows = rows_by_update(read_rows(Path(own.workdir)), rule.every)
    return measured(rule, summary, rows), Run(variant.name, rows)


def build_problem(values: flags.FlagValues) -> Problem:
    """What one protocol's flags describe, ready to run."""
    rule = build_rule(values.protocol)
    optimizer = build("client_optimizer", values.client_optimizer)
    uplink, downlink = (
        build(name, str(values[name].value)) for name in ("uplink", "downlink")
    )
    execution = build("execution", values.execution)
    stream = build_stream(values)
    parts = {
        "optimizer": optimizer,
        "uplink": uplink,
        "downlink": downlink,
        "execution": execution,
        "keep_messages": keeps_messages(values),
    }
    if isinstance(rule.acts, Lazy):
        algorithm = lazy_gradients(stream.task, **rule.acts._asdict(), **parts)
        links = lazy_links(uplink, downlink)
    else:
        algorithm = model_averaging(stream.task, rule.acts, **parts)
        links = averaging_links(uplink, downlink)
    sample = stream.cut(rule.every)
    model_key, _ = initial_key(values)
    return Problem(
        algorithm=unsent(algorithm) if rule.in_one_place else algorithm,
        sample=one_learner(sample) if rule.in_one_place else sample,
        data=stream.data,
        params=stream.task.init(model_key),
        num_clients=1 if rule.in_one_place else values.num_clients,
        evaluate=evaluation_program(
            stream.task, execution, batch_size=values.eval_batch_size
        ),
        test=stream.held_out,
        links=links,
        task=stream.task,
    )


def audit_claims(summary: Json) -> list[Json]:
    """Of one protocol's run: that its audited messages are what their bytes say."""
    return failure_claims("run", [{**summary, "reason": ""}])


def rows_by_update(rows: Sequence[Row], every: int) -> list[Json]:
    """Totals against updates of a learner, from rows against rounds.

    Args:
      rows: a run's evaluations.
      every: updates in a round.

    Returns:
      One row each with `update`, `cumulative_loss` and `total_bytes`.

    >>> row = {"round": 2, "uplink_bytes": 3, "downlink_bytes": 4}
    >>> rows_by_update([{**row, "observed": {"loss_sum": 1.5}}], every=8)
    [{'update': 16, 'cumulative_loss': 1.5, 'total_bytes': 7}]
    """
    return [
        {
            "update": row["round"] * every,
            "cumulative_loss": row.get("observed", {}).get("loss_sum", 0.0),
            "total_bytes": row["uplink_bytes"] + row["downlink_bytes"],
        }
        for row in rows
    ]


def measured(rule: Rule, summary: Json, rows: Sequence[Json]) -> Json:
    """The table's row of a protocol that ran to its end."""
    observed = summary["observed"]
    began_again = summary["dropped_updates"]
    reason = ""
    if began_again:
        # Their losses are in no sum, so what was summed says nothing.
        reason = f"models that were not finite began again {began_again} times"
    kept = ("total_bytes", "uplink_bytes", "downlink_bytes")
    audits = ("audited_messages", "audit_failures")
    sent = summary["uplink_messages"] / summary["num_clients"]
    return {
        **{name: summary[name] for name in (*kept, *audits)},
        "family": rule.family,
        "cumulative_loss": None if began_again else rows[-1]["cumulative_loss"],
        "models_sent": round(sent, 3),
        "full_synchronisations": 0 if rule.in_one_place else int(observed["full"]),
        "violations": int(observed["violators"]),
        "test_accuracy": summary["test_accuracy"] if observed["members"] > 0 else None,
        "reason": reason,
    }


def compare(rows: list[Json]) -> None:
    """Adds to each row its loss and bytes against those of the first and of rivals."""
    add_ratios(rows, "total_bytes")
    add_grades(rows)
    first = rows[0]["cumulative_loss"]
    for one in rows:
        own = one["cumulative_loss"]
        known = first and own is not None
        one["loss_increase"] = round(own / first - 1, 4) if known else None


def drifts_of(values: flags.FlagValues) -> list[int]:
    """The updates at which concepts begin."""
    times: list[int] = drift_times(
        values.num_updates, values.num_drifts, seed=values.seed
    ).tolist()
    return times


def facts(results: Results) -> Json:
    """The stream, and where it drifts."""
    values = results.values
    names = ("stream", "model", "num_clients", "num_updates", "batch_size")
    told = {name: values[name].value for name in names}
    return {**told, "drifts": drifts_of(values)}


def claims(results: Results) -> list[Json]:
    """The claims; of a quick run only that it worked: its stream is too short."""
    if results.values.quick:
        return failure_claims("protocol", results.rows)
    return claims_of(
        results.rows,
        results.curves,
        drifts_of(results.values),
        results.values.num_updates,
        results.others,
    )


def headlines(rows: Sequence[Json]) -> Json:
    """What a report shows first."""
    done = [one for one in rows if one["cumulative_loss"] is not None]
    shown: Json = {"protocols": f"{len(done)} of {len(rows)}"}
    near = [
        one
        for one in done
        if one["family"] == "dynamic" and (one["benefit_kept"] or 0) >= NEARLY_ALL
    ]
    if near:
        best = max(near, key=lambda one: one["total_bytes_ratio"] or 0)
        shown[f"fewest_bytes_that_keep_{NEARLY_ALL:.0%}"] = best["name"]
        shown |= {
            name: best[name]
            for name in ("benefit_kept", "total_bytes_ratio", "fixed_ratio")
        }
    return shown


COMPARISON = Comparison(
    name=NAME,
    define=define,
    quick=QUICK,
    repeated=("protocol",),
    variants=parse,
    describe=lambda one: one.protocol,
    run=run_variant,
    columns=COLUMNS,
    compare=compare,
    facts=facts,
    claims=claims,
    figures=lambda results: draw_figures(
        results.rows,
        results.curves,
        [] if "seeds" in results.facts else drifts_of(results.values),
        results.figures_path,
    ),
    tables=lambda results: [
        Table(
            "Bytes of each family where so much of the benefit is kept",
            *bytes_by_level(results.rows),
        )
    ],
    title=lambda values: (
        f"Averaging protocols on {values.stream}, K={values.num_clients}"
    ),
    headlines=headlines,
    shown={
        "loss": number("cumulative_loss", "{:.1f}"),
        "kept": number("benefit_kept", "{:.1%}"),
        "bytes": formatted("total_bytes", format_bytes),
        "fewer": number("total_bytes_ratio", "{:.2f}x"),
        "fixed": number("fixed_ratio", "{:.2f}x"),
        "rival": number("rival_ratio", "{:.2f}x"),
        "full": number("full_synchronisations"),
        "accuracy": number("test_accuracy", "{:.4f}"),
    },
    caption=(
        "kept: how much of what the first gains over learners on their own\n"
        "times fewer bytes: than the first; than the best fixed times at this loss; "
        "than the best other family at it"
    ),
    word="protocol",
    tuning=Tuning(("client_optimizer",), {}, least="cumulative_loss"),
)
main = COMPARISON.main
