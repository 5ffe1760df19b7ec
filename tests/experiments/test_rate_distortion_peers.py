"""A rival in an environment of its own: what it is given, and what is made of it.

The rivals themselves are not here. A program stands in for NNCodec's interpreter, with
a codec that rounds to NNCodec's step and sends NumPy's own format, and for EDEN's, with
one that rounds to signs.
"""

import csv
import sys

import numpy as np
import pytest

from experiments.rate_distortion import nncodec_peer as peer
from experiments.rate_distortion import sources
from experiments.rate_distortion.eden_peer import packed
from experiments.rate_distortion.peers import EDEN, EDEN_BITS, NNCODEC, STEPS
from experiments.rate_distortion.run import main

CODEC = """
import io, os
import numpy as np

def compress(arrays, qp, nonweight_qp, use_dq, lambda_scale, row_skipping, **rest):
    assert qp == nonweight_qp and row_skipping
    if use_dq and os.path.exists(FAILS):
        open(FAILS, "a").write("called ")
        raise RuntimeError("cannot encode")
    print("INFO: a remark")
    file = io.BytesIO()
    step = 2.0 ** (qp / 4)
    np.savez(file, **{k: np.rint(v / step) * step for k, v in arrays.items()})
    return bytearray(file.getvalue())

def decompress(stream):
    with np.load(io.BytesIO(bytes(stream))) as kept:
        return {name: kept[name].astype(np.float32) for name in kept.files}
"""
SIGNS = """
import numpy as np

class Numbers(np.ndarray):
    def numpy(self):
        return np.asarray(self)

class Pipeline:
    def forward(self, x):
        scale = float(x @ x) / float(abs(x).sum())
        return (x > 0).astype(np.int64).view(Numbers), scale

    def backward(self, cells, scale):
        return (scale * (2.0 * np.asarray(cells) - 1)).view(Numbers), None

def eden_builder(bits):
    return Pipeline()
"""
INTERPRETER = """
import runpy, sys
sys.path.insert(0, FOLDER)
flag, *sys.argv = sys.argv[1:]
assert flag == "-I"
if sys.argv[0] == "-c":
    exec(sys.argv.pop(1))
else:
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


UPDATES = {
    "bias": np.random.default_rng(1).standard_t(3, (2, 30)).astype(np.float32),
    "kernel": np.random.default_rng(2).standard_t(3, (2, 200, 30)).astype(np.float32),
}


@pytest.fixture(autouse=True)
def recorded(monkeypatch):
    """Two updates that no training has to make."""
    monkeypatch.setattr(sources, "train", lambda name, values: dict(UPDATES))


def executable(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def python(tmp_path):
    """What `--nncodec_python` names; dependent quantization fails if `fails` exists."""
    package = tmp_path / "nncodec"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "nnc.py").write_text(f"FAILS = {str(tmp_path / 'fails')!r}\n{CODEC}")
    program = tmp_path / "program.py"
    program.write_text(f"FOLDER = {str(tmp_path)!r}\n{INTERPRETER}")
    return executable(tmp_path / "python", f'exec "{sys.executable}" "{program}" "$@"')


@pytest.fixture
def torch(tmp_path):
    """What `--eden_python` and `--eden_folder` name."""
    (tmp_path / "torch.py").write_text("def from_numpy(x): return x")
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "eden.py").write_text(SIGNS)
    program = tmp_path / "program.py"
    program.write_text(f"FOLDER = {str(tmp_path)!r}\n{INTERPRETER}")
    text = f'exec "{sys.executable}" "{program}" "$@"'
    path = executable(tmp_path / "with_torch", text)
    return [f"--eden_python={path}", f"--eden_folder={folder}"]


def names_of(peer):
    return {entry.expression for entry, _ in peer.entries}


def run(workdir, *more):
    main(
        [
            "rate_distortion",
            f"--workdir={workdir}",
            "--source=digits_mlp",
            "--num_clients=2",
            "--num_update_trials=2",
            "--update_rounds=1",
            "--compressor=sign: biased: scaled_sign()",
            *more,
        ]
    )
    with (workdir / "table.csv").open(encoding="utf-8") as file:
        return {row["compressor"] or row["name"]: row for row in csv.DictReader(file)}


def test_arrays_come_back_from_the_order_in_which_they_were_given():
    rng = np.random.default_rng(0)
    shapes = [(3,), (5, 4), (2, 2, 3, 4), (), (6,), (2, 5), (2, 7)]
    leaves = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    turned = [False, True, True, False, False, False, False]
    arrays = peer.arranged(leaves, turned)
    assert list(arrays) == ["a", "b", "c", "d"]
    found = [array.shape for array in arrays.values()]
    # All vectors; a matrix as PyTorch has it, with one as it is stored below; a
    # convolution as PyTorch has it; another matrix as it is stored.
    assert found == [(10,), (6, 5), (4, 3, 2, 2), (2, 7)]
    np.testing.assert_array_equal(arrays["b"], np.r_[leaves[1].T, leaves[5]])
    np.testing.assert_array_equal(arrays["c"][3, 1, 0, 1], leaves[2][0, 1, 1, 3])
    for leaf, again in zip(leaves, peer.restored(arrays, leaves, turned), strict=True):
        np.testing.assert_array_equal(leaf, again)
    matrix = leaves[1:2]
    (again,) = peer.restored(peer.arranged(matrix, [False]), matrix, [False])
    np.testing.assert_array_equal(matrix[0], again)
    names = [peer.to_name(i) for i in range(5000)]
    assert len(set(names)) == len(names)


@pytest.mark.thorough
def test_its_rows_stand_in_the_table(tmp_path, python):
    workdir = tmp_path / "run"
    run(workdir)  # first without it: it is added to what a directory holds
    table = run(workdir, f"--nncodec_python={python}")
    measured = {name for name in table if not name.startswith("limit of")}
    assert names_of(NNCODEC) | {"scaled_sign()"} == measured
    leaves = UPDATES.values()
    updates = [
        np.concatenate([np.float64(x[c]).ravel() for x in leaves]) for c in (0, 1)
    ]
    step = STEPS[6]
    row = table[f"nncodec(step={step:g}, use_dq=False)"]
    assert (row["family"], row["unbiased"]) == ("NNCodec", "False")
    least, rescaled, errors = [], [], []
    for x in updates:
        # Steps are powers of the fourth root of two.
        used = 2 ** (np.rint(4 * np.log2(step * np.sqrt(np.mean(x**2)))) / 4)
        y = np.rint(x / used) * used
        share = (x @ y) ** 2 / (x @ x) / (y @ y)
        least.append(1 - share)
        rescaled.append(1 / share - 1)
        errors.append((x @ y) / (y @ y) * y - x)
    cohort = np.mean(errors, axis=0)
    power = np.mean([x @ x for x in updates])
    # The codec's arithmetic is in float32: a few numbers fall on the other side.
    assert float(row["vnmse"]) == pytest.approx(np.mean(least), rel=1e-3)
    assert float(row["vnmse_rescaled"]) == pytest.approx(np.mean(rescaled), rel=1e-3)
    assert float(row["nmse"]) == pytest.approx(cohort @ cohort / power, rel=1e-3)
    assert int(row["n"]) == updates[0].size
    # NumPy's format: four bytes a coordinate and some headers, and the scale.
    assert 32 < float(row["rate_bits"]) < 34
    assert float(row["limit"]) == pytest.approx(4 ** -float(row["rate_bits"]))
    assert row["reason"] == ""


@pytest.mark.thorough
def test_its_failure_costs_its_rows_and_is_waited_for_once(tmp_path, python):
    (tmp_path / "fails").touch()
    table = run(tmp_path / "run", f"--nncodec_python={python}")
    lost = [row for row in table.values() if row["reason"]]
    assert len(lost) == len(NNCODEC.entries)
    assert all("RuntimeError: cannot encode" in row["reason"] for row in lost)
    assert table["scaled_sign()"]["reason"] == ""
    assert (tmp_path / "fails").read_text() == "called "


@pytest.mark.parametrize("program", [None, "exit 0", "echo no module >&2; exit 1"])
def test_an_interpreter_without_it_is_a_mistake(tmp_path, capsys, program):
    path = tmp_path / "python"
    if program is not None:
        executable(path, program)
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "run", f"--nncodec_python={path}")
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "pip install nncodec==2.1.3" in line
    assert ("no module" in line) == (program is not None and "no module" in program)
    assert not (tmp_path / "run").exists()


@pytest.mark.thorough
def test_the_published_code_of_eden_is_sent_packed(tmp_path, torch):
    table = run(tmp_path / "run", *torch)
    assert names_of(EDEN) < set(table)
    updates = [
        np.concatenate([np.float64(x[c]).ravel() for x in UPDATES.values()])
        for c in (0, 1)
    ]
    n = updates[0].size
    # The scale of signs that is unbiased: ||x||^2 n / ||x||_1^2 - 1.
    error = np.mean([(x @ x) * n / np.abs(x).sum() ** 2 - 1 for x in updates])
    for bits in EDEN_BITS:
        row = table[f"published_eden({bits:g})"]
        assert (row["family"], row["unbiased"]) == ("EDEN, published code", "True")
        assert float(row["vnmse"]) == pytest.approx(error, rel=1e-5)
        assert float(row["vnmse_rescaled"]) == pytest.approx(error, rel=1e-5)
        assert row["bias"] == ""
        num_bytes = -(-max(int(bits), 1) * n // 8) + 4
        assert float(row["rate_bits"]) == pytest.approx(8 * num_bytes / n, rel=1e-5)


def test_cells_are_packed_at_their_width():
    cells = np.array([5, 0, 7, 2], np.int64)
    assert packed(cells, 3).tolist() == [0b10100011, 0b10100000]
    assert packed(np.array([1, 0, 1]), 1).tolist() == [0b10100000]


@pytest.mark.parametrize("without", [0, 1])
def test_its_two_flags_come_together(tmp_path, capsys, torch, without):
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "run", torch[1 - without])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert torch[without].split("=")[0] in line


def test_another_folder_is_a_mistake(tmp_path, capsys, torch):
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "run", torch[0], f"--eden_folder={tmp_path}")
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "No module named 'eden'" in line
