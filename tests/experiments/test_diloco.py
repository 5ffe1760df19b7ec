"""DiLoCo's comparison: its bytes and claims by hand, and what it leaves behind."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.diloco.flags import define
from experiments.diloco.run import claims, compare, main
from experiments.diloco.seconds import Costs, seconds_to
from experiments.diloco.table import PIPELINES, parse_variants, warm_variant
from experiments.diloco.warm import compressor_of, heard
from fedjax_comp.experiment.comparison import Results
from tests.experiments.small import mistake, read_runs

N = 650
"""Numbers of `linear()` on digits."""


def test_every_pipeline_of_the_table_takes_as_many_steps_on_as_many_examples():
    values = define()
    values(["", "--workdir=x"])
    variants = parse_variants(values)
    assert len(variants) == len(PIPELINES)
    for one in variants:
        assert one.num_rounds * one.local_steps == values.total_steps
        assert one.batch_size * one.num_clients == values.total_batch
    first, second = variants[:2]
    assert first.server_optimizer == second.client_optimizer == values.client_optimizer
    assert first.client_optimizer == "sgd(1.0)"
    assert warm_variant(values).batch_size == values.total_batch
    values.warm_batch = 5
    assert warm_variant(values).batch_size == 5


def test_seconds_are_flops_and_bytes_of_which_a_delay_hides_some():
    sent = {"uplink_bytes": 6_000_000, "downlink_bytes": 2_000_000}
    row = {"round": 3, "test_loss": 1.0, **sent}
    costs = Costs(2, 10, 5.0, 40.0, 1_000_000, 0)
    # Warm: 40 FLOPs and 1 MB; three rounds of ten steps; 4 MB of one worker.
    assert costs.seconds_at(row, 8.0, 10.0) == pytest.approx(4 + 1 + 15 + 4)
    late = costs._replace(hidden_steps=2)  # 3 rounds, 2 steps of half a second
    assert late.seconds_at(row, 8.0, 10.0) == pytest.approx(4 + 1 + 15 + 1)
    assert late.seconds_at(row, 800.0, 10.0) == pytest.approx(4 + 0.01 + 15)
    assert seconds_to(0.9, [row], costs, 8.0, 10.0) is None


def test_a_claim_needs_both_ratios_and_takes_the_least_loss():
    def row(loss, sent, warm):
        return {
            "test_loss": loss,
            "worker_bytes_sent": sent,
            "worker_bytes_received": 0,
            "worker_bytes": sent + warm,
            "reason": "",
        }

    rows = [row(2.0, 1e6, 1e6), row(2.02, 1e4, 10), row(2.1, 1e3, 0), row(1.0, 9e4, 0)]
    compare(rows)
    values = define()
    values(["", "--workdir=x"])
    _, hundred, thousand = claims(Results(values, rows, [], None))
    assert (hundred["measured"], hundred["holds"]) == (1.0, True)
    assert (thousand["measured"], thousand["holds"]) == (5.0, False)
    values.quick = True
    assert len(claims(Results(values, rows, [], None))) == 1


@pytest.mark.thorough
def test_a_quick_comparison_counts_every_byte(tmp_path, capsys):
    flags = (
        f"--workdir={tmp_path}",
        *("--quick", "--noprogress", "--total_steps=20"),
        "--warm_message=to_dtype('bfloat16')",
    )
    with jax.numpy_dtype_promotion("standard"):  # Adam raises to its integer count
        main(["diloco", *flags])
    assert read_runs(tmp_path).keys() == {"data-parallel", "h-10", "h-10-sparse"}
    dense, local, sparse = json.loads((tmp_path / "summary.json").read_text())["runs"]
    assert dense["worker_bytes_sent"] == 20 * 4 * N
    assert dense["worker_bytes"] == (2 * 20 + 2 * 10) * 4 * N
    assert local["worker_bytes_received"] == 2 * 4 * N
    assert local["worker_bytes"] == (2 + 2) * 4 * N + 2 * N
    assert local["after_warm_start_ratio"] == 10.0
    # Three others hear what one says.
    assert sparse["uplink_bytes"] == sparse["downlink_bytes"]
    assert sum(one["audited_messages"] for one in (dense, local, sparse)) == 14
    assert not any(one["audit_failures"] for one in (dense, local, sparse))
    # Another start finds all finished, the warm start too.
    main(["diloco", *flags])
    assert "nothing was changed" in capsys.readouterr().out


def test_a_model_is_told_dense_unless_a_compressor_is_named():
    values = define()
    values(["", "--workdir=x"])
    params = {"w": jnp.asarray([1.0, 1 / 3, 1e-9])}
    told, size = heard(params, compressor_of(values), seed=0)
    assert size == 12
    np.testing.assert_array_equal(told["w"], params["w"])


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--pipeline=a: 4 by 10 | identity() | gathered | diloco() | sgd(1.0)", "4 by"),
        (
            "--pipeline=a: 4 x 7 | identity() | gathered | diloco() | sgd(1.0)",
            "--total_steps=40",
        ),
        (
            "--pipeline=a: 3 x 10 | identity() | gathered | diloco() | sgd(1.0)",
            "--total_batch=32",
        ),
        ("--pipeline=a: 4 x 10 | identity() | diloco()", "NAME: WORKERS x STEPS"),
        (
            "--pipeline=a: 4 x 10 | topk(1) | identity() | diloco() | sgd(1.0)",
            "top_k",
        ),
        ("--cohort_size=3", "cohort_size"),
        ("--warm_message=topk(1)", "--warm_message: unknown name 'topk'"),
        ("--warm_message=rans()", "--warm_message=rans() makes no Compressor"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, capsys, flag, expected):
    flags = [f"--workdir={tmp_path / 'run'}", "--quick", flag]
    assert expected in mistake(main, capsys, flags)
    assert not list(tmp_path.iterdir())
