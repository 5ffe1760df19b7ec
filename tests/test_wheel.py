"""The wheel alone, in an empty environment, trains; without extras it names them."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PROJECT = "pyproject.toml"
PYTHON = "FEDJAX_COMP_WHEEL_PYTHON"
"""Another Python to install the wheel into."""

PROGRAM = """
import importlib, importlib.util, json, pkgutil, sys
from pathlib import Path

import jax, optax

import fedjax_comp
from fedjax_comp import compress, data, models, training
from fedjax_comp.algorithms import fed_avg
from fedjax_comp.execution import auto
from fedjax_comp.extras import MissingExtra
from fedjax_comp.metrics import Ledger

assert Path(fedjax_comp.__file__).is_relative_to(sys.prefix), fedjax_comp.__file__
extras = (
    "PIL", "array_record", "cryptography", "dp_accounting", "matplotlib", "sklearn",
    "tensorboardX", "tensorflow_datasets",
)
there = [name for name in extras if importlib.util.find_spec(name)]
assert not there, there
assert importlib.util.find_spec("experiments") is None
modules = pkgutil.walk_packages(fedjax_comp.__path__, "fedjax_comp.")
for module in modules:
    importlib.import_module(module.name)

population = data.federate(data.load("digits"), data.iid(), num_clients=20, seed=0)
spec = population.spec
task = models.classification(
    models.linear()(spec.num_classes), input_shape=spec.input_shape, scale=spec.scale
)
uplink = compress.error_feedback(compress.top_k(0.1))
algorithm = fed_avg(
    task, client_optimizer=optax.sgd(0.2), uplink=uplink, execution=auto()
)
sample = training.uniform_cohorts(cohort_size=10, epochs=1, batch_size=10)
run_rounds = jax.jit(training.round_program(algorithm, sample, max_rounds=3))
params = task.init(jax.random.key(0))
state = training.init_state(jax.random.key(1), algorithm, params, spec.num_clients)
state, dispatch = run_rounds(state, population, 3)
ledger = Ledger()
ledger.record(dispatch)
assert ledger.rounds == 3 and ledger.uplink_bytes > 0
evaluate = jax.jit(training.evaluation_program(task, auto(), batch_size=180))
print(float(evaluate(algorithm.params(state.server), population.test).accuracy))

from fedjax_comp.audit.note import make_signer
from fedjax_comp.data.sources import prepared
from fedjax_comp.privacy.accounting import require_library
from fedjax_comp.report import Run, line_figure
from fedjax_comp.report.events import Events

axes = dict(x="a", y="b", xlabel="", ylabel="")
for call in (
    lambda: line_figure([Run("x", [])], path="x.png", **axes),
    lambda: Events("events"),
    lambda: prepared.read(Path(".")),
    lambda: make_signer("a", bytes(32)),
    require_library,
):
    try:
        call()
    except MissingExtra as error:
        print(error)
"""


def call(*command, cwd, code=0):
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr + done.stdout
    return done.stdout, done.stderr


@pytest.mark.slow
def test_the_core_of_the_wheel_trains_and_names_what_is_missing(tmp_path, monkeypatch):
    """Needs a package index; one to three minutes."""
    for name in ("PYTHONPATH", "XLA_FLAGS"):  # of this process and its jaxlib
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    source, environment = tmp_path / "source", tmp_path / "environment"
    python = environment / "bin" / "python"
    source.mkdir()
    for name in (PROJECT, "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, source)
    leave = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "fedjax_comp", source / "fedjax_comp", ignore=leave)

    call(os.environ.get(PYTHON, sys.executable), "-m", "venv", environment, cwd=source)
    pip = (python, "-m", "pip", "--disable-pip-version-check")
    call(*pip, "wheel", "--no-deps", "--wheel-dir", tmp_path, source, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    call(*pip, "install", "-c", ROOT / "constraints.txt", wheel, cwd=tmp_path)

    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "program.py").write_text(PROGRAM)
    out, _ = call(python, "program.py", cwd=empty)
    accuracy, *lines = out.splitlines()
    assert float(accuracy) > 0.3
    assert [line.partition(" is needed for ")[0] for line in lines] == [
        "matplotlib",
        "tensorboardX",
        "array_record",
        "cryptography",
        "dp-accounting",
    ]
    assert all("pip install 'fedjax_comp[" in line for line in lines)

    # The harness is in the package, and goes on without figures.
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    _, _, recipe = text.partition("## 5. An experiment")
    (empty / "local_epochs.py").write_text(
        re.findall(r"```python\n(.*?)```", recipe, re.S)[0]
    )
    flags = ("--workdir=run", "--quick", "--noprogress", "--num_clients=20")
    out, err = call(python, "local_epochs.py", *flags, cwd=empty)
    assert "holds: variants that failed" in out
    assert "matplotlib is needed for figures" in err

    command = environment / "bin" / "fedjax-comp"
    out, _ = call(command, "report", "run", "--out=page.html", cwd=empty)
    assert "2 runs in 2 groups" in out
    _, err = call(command, "run", "fed_avg", cwd=empty, code=2)
    assert "a copy of the repository" in err
    shutil.rmtree(environment)  # Half a gigabyte.


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="This is no checkout")
def test_the_source_distribution_is_the_repository(tmp_path):
    """Needs a package index and git."""
    source, environment = tmp_path / "source", tmp_path / "environment"
    tracked, _ = call("git", "ls-files", cwd=ROOT)
    for name in tracked.splitlines():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    call(sys.executable, "-m", "venv", environment, cwd=source)
    python = environment / "bin" / "python"
    (backend,) = re.findall(r'requires = \["(.*)"\]', (source / PROJECT).read_text())
    call(python, "-m", "pip", "install", backend, cwd=source)
    build = (
        f"from setuptools import build_meta; build_meta.build_sdist({str(tmp_path)!r})"
    )
    call(python, "-c", build, cwd=source)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        there = {name.partition("/")[2] for name in files.getnames()}
    assert not set(tracked.splitlines()) - there
