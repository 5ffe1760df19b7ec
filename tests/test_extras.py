"""The core does without the extras, and names the one that is missing in a line."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

WITHOUT = """
import sys

EXTRAS = {
    "PIL", "array_record", "cryptography", "dp_accounting", "matplotlib", "sklearn",
    "tensorboardX", "tensorflow_datasets", "chex", "flwr",
}

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in EXTRAS:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
"""


def run(program, *, code=0):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT + program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr


def test_every_module_is_imported_without_any_extra():
    out, _ = run(
        """
import importlib, pkgutil, fedjax_comp

names = [x.name for x in pkgutil.walk_packages(fedjax_comp.__path__, "fedjax_comp.")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""
    )
    assert int(out) > 250


def test_what_is_missing_is_named_in_one_line_with_its_extra():
    out, _ = run(
        """
from pathlib import Path
import numpy as np
from fedjax_comp.audit.note import make_signer, verify_signature
from fedjax_comp.data.sources import download, prepared
from fedjax_comp.extras import MissingExtra
from fedjax_comp.privacy import cohort_epsilon
from fedjax_comp.privacy.envelopes import seal, unseal
from fedjax_comp.privacy.masks import KeyPair, agree, expand, key_pair
from fedjax_comp.report import Run, line_figure
from fedjax_comp.report.events import Events

pair = KeyPair(bytes(32), bytes(32))
axes = dict(x="a", y="b", xlabel="", ylabel="")
for call in (
    lambda: line_figure([Run("x", [])], path="x.png", **axes),
    lambda: Events("events"),
    lambda: prepared.read(Path(".")),
    lambda: prepared.write(Path("."), None, None),
    lambda: download.fetch({"a": "http://localhost:1"}, Path(".")),
    lambda: make_signer("a", bytes(32)),
    lambda: verify_signature(None, b"", b""),
    lambda: key_pair(bytes(32)),
    lambda: agree(pair, bytes(32), purpose=b""),
    lambda: expand(bytes(32), 1, bits=8),
    lambda: seal(bytes(32), b"", sender=0, receiver=1),
    lambda: unseal(bytes(32), b"", sender=0, receiver=1),
    lambda: cohort_epsilon(
        noise_multiplier=1.0, rounds=1, delta=1e-5, cohort_size=1, population=2
    ),
):
    try:
        call()
    except MissingExtra as error:
        print(error)
"""
    )
    secure = ("cryptography", "secure sums", "crypto")
    expected = [
        ("matplotlib", "figures", "report"),
        ("tensorboardX", "TensorBoard events", "report"),
        *[("array_record", "prepared data", "data")] * 2,
        ("tensorflow-datasets", "downloads", "data"),
        *[("cryptography", "signatures", "crypto")] * 2,
        *[secure] * 5,
        ("dp-accounting", "epsilon where not every client takes part", "privacy"),
    ]
    assert out.splitlines() == [
        f"{package} is needed for {purpose}: pip install 'fedjax_comp[{extra}]'"
        for package, purpose, extra in expected
    ]


@pytest.mark.thorough
@pytest.mark.parametrize("flag", ["--audit_log", "--dp_clip=1", ""])
def test_a_run_says_before_its_first_round_what_there_will_not_be(tmp_path, flag):
    """Figures a run does without; what it was asked for it does not."""
    workdir = tmp_path / "run"
    arguments = [
        f"--workdir={workdir}",
        *("--model=linear()", "--num_clients=20", "--num_rounds=2"),
        *([flag] if flag else []),
    ]
    program = f"""
from experiments.fed_avg.run import main
main(["fed_avg", *{arguments!r}])
"""
    out, err = run(program, code=2 if flag else 0)
    figures = err.index("matplotlib is needed for figures")
    assert err.count("going on without") == 2
    if flag:
        extra = {"--audit_log": "crypto", "--dp_clip=1": "privacy"}[flag]
        (line,) = [x for x in err.splitlines() if x.startswith("fed_avg: ")]
        assert line.endswith(f"pip install 'fedjax_comp[{extra}]'")
        assert not workdir.exists()
        return
    assert figures >= 0
    assert "accuracy" in out
    assert {path.name for path in workdir.iterdir()} >= {"report.html", "summary.json"}
    assert not (workdir / "events").exists()
    assert "<img" not in (workdir / "report.html").read_text(encoding="utf-8")


def test_raw_files_are_read_without_the_extra_data(tmp_path):
    """They are not kept prepared, and read anew the next time."""
    out, _ = run(
        f"folder = {str(tmp_path)!r}"
        """
import os
from pathlib import Path
from fedjax_comp.data.sources import load
from fedjax_comp.data.sources.contract import DataUnavailable

folder = Path(folder)
os.environ.pop("FEDJAX_COMP_RAW_DATA", None)
try:
    load("mnist", data_dir=folder / "prepared")
except DataUnavailable as error:
    print(error)
(folder / "tabular").mkdir()
columns = [f"x{i}" for i in range(30)]
rows = [[str(i), "MB"[i % 2], *(f"{i * j % 7}" for j in range(30))] for i in range(50)]
lines = [",".join(row) for row in [["id", "diagnosis", *columns], *rows]]
(folder / "tabular" / "wdbc.csv").write_text(chr(10).join(lines) + chr(10))
print(load("wdbc", raw_dir=folder).num_classes)
"""
    )
    assert "pip install 'fedjax_comp[data]'" in out
    assert out.splitlines()[-1] == "2"
