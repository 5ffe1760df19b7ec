"""Algorithms from the command line: each one runs, and what it lacks is refused."""

import json

import pytest

from experiments.fed_avg.compare import COMPARISON
from experiments.fed_avg.compare import main as compare
from experiments.fed_avg.flags import define
from experiments.fed_avg.run import main
from fedjax_comp.experiment.algorithms import AGGREGATORS, DIRECTIONS, OFFERED
from fedjax_comp.experiment.errors import UsageError
from fedjax_comp.experiment.expressions import build
from fedjax_comp.experiment.problem import build_federation
from tests.experiments.small import mistake, read_runs

SMALL = (
    "--model=linear()",
    "--num_clients=6",
    "--cohort_size=3",
    "--num_rounds=2",
    "--eval_every=2",
    "--audit_every=2",
    "--execution=scanned()",
    "--noprogress",
)
CALLS = {
    "fed_avg": ["fed_avg()", "--uplink=top_k(0.1)", "--proximal=0.1"],
    "diloco": ["diloco()", "--uplink=error_feedback(top_k(0.2))"],
    "ditto": ["ditto(pull=0.1)", "--uplink=qsgd(4)"],
    "fed_buff": ["fed_buff(max_staleness=1)", "--server_optimizer=sgd(0.5)"],
    "fed_distill": [
        "fed_distill(public=90, sample=40)",
        "--uplink=simplex_quantize(4)",
    ],
    "fed_dlr": ["fed_dlr()", "--uplink=truncation(0.9)", "--downlink=truncation(0.9)"],
    "fed_dlrt": ["fed_dlrt(rank=2)", "--uplink=qsgd(64)"],
    "fed_dyn": ["fed_dyn(alpha=0.1)", "--uplink=qsgd(4)"],
    "fed_exp": ["fed_exp(epsilon=0.01)", "--uplink=qsgd(4)"],
    "fed_nova": ["fed_nova()", "--uplink=qsgd(4)", "--downlink=to_dtype('bfloat16')"],
    "fed_per": ["fed_per(personal='bias')", "--uplink=qsgd(4)"],
    "fed_zeroth_order": ["fed_zeroth_order(draw=signs())", "--uplink=qsgd(64)"],
    "fetch_sgd": ["fetch_sgd(rows=3, columns=50, k=20)"],
    "locodl": [
        "locodl(probability=0.5, omega=9.0)",
        "--uplink=random_k(0.1)",
        "--num_clients=3",
    ],
    "marina": ["marina(probability=0.5)", "--uplink=random_k(0.1)"],
    "mime_lite": ["mime_lite(momentum=0.5)", "--uplink=qsgd(4)"],
    "optimal_sampling": ["optimal_sampling(expected=3)", "--uplink=qsgd(4)"],
    "scaffnew": ["scaffnew(probability=0.5)", "--num_clients=3"],
    "scaffold": ["scaffold()", "--uplink=qsgd(4)", "--downlink=to_dtype('bfloat16')"],
    "secure_fed_avg": ["secure_fed_avg(levels=255, limit=1.0)"],
    "streaming_diloco": ["streaming_diloco(delay=1)", "--uplink=qsgd(64)"],
}
DENSE_BYTES = 4 * 650
"""Of `linear()` on digits."""
EXCHANGES = {"fed_dlrt": 2, "optimal_sampling": 2, "streaming_diloco": 2}
"""Of a round, where they are more than one."""
BESIDE = {"secure_fed_avg": 3}
"""A client's messages of a round that are counted and not kept."""


@pytest.mark.thorough
@pytest.mark.parametrize("name", sorted(OFFERED))
def test_every_offered_algorithm_runs_and_its_messages_are_audited(tmp_path, name):
    call, *flags = CALLS[name]
    main(["", f"--workdir={tmp_path}", *SMALL, f"--algorithm={call}", *flags])
    summary = json.loads((tmp_path / "summary.json").read_text())
    # Three messages up and the broadcast, all of which decode to what the run used.
    times = EXCHANGES.get(name, 1)
    audited = summary["audited_messages"], summary["audit_failures"]
    assert audited == (4 * times, 0)
    assert summary["uplink_messages"] == 2 * 3 * (times + BESIDE.get(name, 0))
    # A dense run would have sent one model for each update, whatever came beside.
    assert summary["dense_uplink_bytes"] == 2 * 3 * DENSE_BYTES
    assert summary["test_accuracy"] > 0.05
    assert summary["dropped_updates"] == 0


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--algorithm=fed_nva()"], "did you mean 'fed_nova'"),
        (["--algorithm=marina()"], "probability"),
        (["--algorithm=fed_nova(x=1)"], "no argument 'x'"),
        (["--algorithm=fed_avg(uplink=3)"], "no argument 'uplink'"),
        (
            ["--algorithm=fetch_sgd(rows=3, columns=5, k=2)", "--uplink=top_k(0.1)"],
            r"--uplink=top_k(0.1): fetch_sgd() has no uplink",
        ),
        (
            ["--algorithm=fed_nova()", "--server_optimizer=adam(0.1)"],
            "fed_nova() has no server_optimizer",
        ),
        (["--algorithm=fed_dlr()", "--proximal=0.1"], "fed_dlr() has no proximal"),
        (["--algorithm=fed_distill()"], "public"),
        (["--algorithm=fed_distill(public=0)"], "public=0"),
        (["--algorithm=fed_distill(public=1437)"], "public=1437"),
        (["--algorithm=fed_distill(public='all')"], "public='all'"),
        (["--algorithm=fed_distill(public=9, sample=10)"], "sample=10"),
        (["--algorithm=fed_nova()", "--dp_clip=1.0"], "--dp_clip"),
        (["--algorithm=fed_avg(aggregation=median())", "--dp_clip=1"], "--dp_clip"),
        (["--algorithm=median()"], "makes no Algorithm; e.g. fed_avg() does"),
        (["--algorithm=fed_avg(aggregation=median)"], "a call of one of"),
        (["--algorithm=fed_avg(aggregation=medain())"], "did you mean 'median'"),
        (["--algorithm=fed_nova(aggregation=median())"], "'aggregation'"),
        (
            ["--algorithm=fed_avg(aggregation=krum(1))"],
            "at least 5 clients for this aggregator, got 3",
        ),
        (["--algorithm=fed_avg(aggregation=trimmed_mean(0.5))"], "fraction=0.5"),
        (["--algorithm=fed_zeroth_order(draw=signs)"], "a call: signs(...)"),
        (["--algorithm=fed_zeroth_order(draw=sings())"], "did you mean 'signs'"),
        (["--algorithm=fed_zeroth_order()", "--downlink=qsgd(4)"], "has no downlink"),
        # What a factory cannot know is told by its first round.
        (["--algorithm=scaffnew(probability=0.5)"], "all population=6 clients"),
        (
            ["--algorithm=locodl(probability=0.5, omega=1.0)", "--downlink=qsgd(4)"],
            "has no downlink",
        ),
        (["--algorithm=fed_zeroth_order(kept=9)"], "make it kept="),
        (
            ["--algorithm=fed_dyn()", "--downlink=differenced(qsgd(4))"],
            "without memory at the receiver",
        ),
        (
            [
                "--algorithm=fed_nova()",
                "--network=constant(1.0)",
                "--concurrency=4",
            ],
            "fed_buff()",
        ),
    ],
)
def test_what_an_algorithm_lacks_is_refused(tmp_path, capsys, flags, expected):
    line = mistake(main, capsys, [f"--workdir={tmp_path / 'new'}", *SMALL, *flags])
    assert expected in line
    assert not (tmp_path / "new").exists()


def test_public_examples_are_taken_out_of_the_federation():
    def federation(algorithm):
        values = define()
        values(["", "--workdir=none", *SMALL, f"--algorithm={algorithm}"])
        return build_federation(values)

    asked, plain = federation("fed_distill(public=90)"), federation("fed_avg()")
    assert plain.public is None
    assert asked.public.shape == (90, 8, 8, 1)
    held = [len(one.population.examples.y) for one in (asked, plain)]
    assert held[0] == held[1] - 90 == asked.population.order.shape[0]


def test_local_steps_stand_in_for_the_main_job_s_epochs():
    def epochs(*given):
        values = COMPARISON.define()
        values(["", "--workdir=none", *given])
        COMPARISON.variants(values)
        return values.local_epochs

    assert epochs() == 5
    assert epochs("--local_steps=2") == 1
    with pytest.raises(UsageError, match="--local_steps=2 and --local_epochs"):
        epochs("--local_steps=2", "--local_epochs=5")


AGGREGATIONS = {
    "geometric_median": "geometric_median()",
    "krum": "krum(0)",
    "median": "median()",
    "norm_bound": "norm_bound(1.0)",
    "trimmed_mean": "trimmed_mean(0.4)",
}


def test_every_aggregator_is_offered():
    assert AGGREGATIONS.keys() == AGGREGATORS.keys()
    for call in AGGREGATIONS.values():
        build("algorithm", f"fed_avg(aggregation={call})")


def test_all_kinds_of_directions_are_offered():
    assert set(DIRECTIONS) == {"coordinates", "gaussian", "signs"}
    for name in DIRECTIONS:
        build("algorithm", f"fed_zeroth_order(draw={name}())")


@pytest.mark.thorough
def test_an_aggregator_of_each_kind_runs(tmp_path):
    pipelines = [
        f"--pipeline={name.replace('_', '-')}: top_k(0.5) | identity() | "
        f"fed_avg(aggregation={AGGREGATIONS[name]})"
        for name in ("norm_bound", "krum")
    ]
    compare(["", f"--workdir={tmp_path}", *SMALL, *pipelines])
    runs = read_runs(tmp_path)
    assert {one["reason"] for one in runs.values()} == {""}
    assert {one["audit_failures"] for one in runs.values()} == {0}
    # They are two models of the same messages.
    assert len({one["uplink_bytes"] for one in runs.values()}) == 1
    assert len({one["test_accuracy"] for one in runs.values()}) > 1


@pytest.mark.thorough
def test_a_pipeline_names_its_algorithm(tmp_path):
    compare(
        [
            "",
            f"--workdir={tmp_path}",
            *SMALL,
            "--pipeline=avg: identity() | identity()",
            "--pipeline=nova: identity() | identity() | fed_nova()",
        ]
    )
    runs = read_runs(tmp_path)
    assert [one["algorithm"] for one in runs.values()] == ["fed_avg()", "fed_nova()"]
    assert runs["avg"]["total_bytes"] == runs["nova"]["total_bytes"]


def test_a_flag_that_one_pipeline_lacks_ends_the_comparison(tmp_path, capsys):
    flags = [
        f"--workdir={tmp_path / 'new'}",
        *SMALL,
        "--proximal=0.1",
        "--pipeline=avg: identity() | identity()",
        "--pipeline=nova: identity() | identity() | fed_nova()",
    ]
    assert "fed_nova() has no proximal" in mistake(compare, capsys, flags)
    assert not (tmp_path / "new").exists()
    key = [f"--audit_key={tmp_path}", "--audit_log", *flags[:-1]]
    assert str(tmp_path) in mistake(compare, capsys, key)
    assert not (tmp_path / "new").exists()
