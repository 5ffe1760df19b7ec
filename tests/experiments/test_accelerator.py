"""Rounds compiled for an accelerator: the rows, and mistakes."""

import csv
import importlib.util

import pytest

from experiments.benchmark.accelerator import main, with_ratios

SMALL = [
    "--model=2nn",
    "--num_clients=2",
    "--examples=20",
    "--batch_size=10",
    "--pipeline=dense: identity() | identity()",
    "--pipeline=4-bit: stochastic_quantize(levels=16) | identity()",
    "--repeats=1",
]


def run(workdir, *more):
    main(["accelerator", f"--workdir={workdir}", *SMALL, *more])
    with (workdir / "table.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.thorough
def test_a_round_is_compiled_and_run_here(tmp_path, capsys):
    dense, compressed = run(tmp_path / "run", "--compile_for=here", "--run")
    # Two clients, two batches of 10, forwards and backwards, no gradient of the input.
    products = 784 * 200 + 200 * 200 + 200 * 10
    expected = 2 * 2 * 10 * (2 * products + 2 * (2 * products - 784 * 200))
    assert float(dense["matrix_flops"]) == pytest.approx(expected, rel=0.02)
    assert float(dense["accessed_ratio"]) == 1
    assert float(compressed["accessed_ratio"]) > 1
    for row in (dense, compressed):
        assert float(row["round_seconds"]) > 0
        assert row["roofline_seconds"] == ""
        assert row["unknown_loops"] == "0"
    assert "4-bit" in capsys.readouterr().out


@pytest.mark.thorough
def test_a_mesh_shows_its_collectives(tmp_path):
    rows = run(tmp_path / "run", "--compile_for=here", "--strategy=sharded")
    for row in rows:
        if int(row["devices"]) > 1:
            # The sum of all updates, and what else is counted.
            assert float(row["collective_bytes"]) >= 4 * 199_210
            assert "all-reduce" in row["collectives"]


def test_a_target_without_a_compiler_is_a_row_with_its_reason(tmp_path):
    if importlib.util.find_spec("libtpu") is not None:
        pytest.skip("libtpu is installed: see the next test")
    rows = run(tmp_path / "run", "--compile_for=here,tpu:v5e:2x2")
    reasons = [row["reason"] for row in rows if row["reason"]]
    assert len(rows) == 4
    assert len(reasons) == 2
    assert all("fedjax_comp[tpu]" in reason for reason in reasons)


def test_a_round_is_compiled_for_a_tpu(tmp_path):
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("needs libtpu, of the extra 'tpu'")
    (dense, compressed) = run(tmp_path / "run", "--compile_for=tpu:v5e:2x2")
    for row in (dense, compressed):
        assert row["reason"] == ""
        assert float(row["roofline_seconds"]) > 0
        assert row["unknown_loops"] == "0"
    assert float(compressed["accessed_ratio"]) >= 1


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--compile_for=gpu"], "tpu:v5e:2x2"),
        (["--compile_for=tpu:v5e"], "tpu:v5e:2x2"),
        (["--compile_for=tpu:v5e:2x2", "--run"], "--run"),
        (["--compile_for=here", "--batch_size=7"], "--batch_size=7"),
        (["--compile_for=here", "--strategy=all"], "strategy"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, capsys, flags, told):
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "run", *flags)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert told in line
    assert not (tmp_path / "run").exists()


def test_ratios_are_of_the_first_of_the_same_kind():
    def row(target, size):
        return {
            "target": target,
            "model": "2nn",
            "strategy": "vmapped",
            "accessed_bytes": size,
            "main_memory_bytes": size,
            "temporary_bytes": 0,
        }

    found = with_ratios([row("a", 2), row("b", 10), row("a", 3)])
    assert [one["accessed_ratio"] for one in found] == [1, 1, 1.5]
    assert [one["temporary_ratio"] for one in found] == [None] * 3
