"""Factories of one's own in expressions: by a flag, by an entry point, or refused."""

import importlib.metadata
import json
import sys

import pytest

from experiments.fed_avg.flags import define
from experiments.fed_avg.run import main
from fedjax_comp.experiment import algorithms, expressions, own_names
from fedjax_comp.experiment.again import run_again
from fedjax_comp.experiment.flags import run_flags
from tests.experiments.small import mistake

MINE = '''
"""A user's module."""
import optax
from fedjax_comp.algorithms import fed_avg
from fedjax_comp.base import Algorithm, Compressor, Task
from fedjax_comp.compress import error_feedback, top_k
from fedjax_comp.models import ModelFn, mlp

def largest(share: float) -> Compressor:
    return error_feedback(top_k(share))

def narrow(width: int) -> ModelFn:
    return mlp(width)

def heavy(rate: float) -> optax.GradientTransformation:
    return optax.sgd(rate, momentum=0.5)

def half_averaged(
    task: Task, *, client_optimizer: optax.GradientTransformation,
    uplink: Compressor, downlink: Compressor, keep_messages: bool = False,
    share: float = 0.5,
) -> Algorithm:
    return fed_avg(task, client_optimizer=client_optimizer, uplink=uplink,
                   downlink=downlink, server_optimizer=optax.sgd(share),
                   keep_messages=keep_messages)

def _hidden(share: float) -> Compressor:
    return top_k(share)
'''
QUICK = [
    "--num_rounds=2",
    "--num_clients=4",
    "--cohort_size=2",
    "--eval_every=2",
    "--noprogress",
]


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module into the folder where the command is run."""
    names = (
        expressions.COMPRESSORS,
        expressions.OPTIMIZERS,
        expressions.NAMES["model"],
        algorithms.OFFERED,
        algorithms.NAMES,
        own_names._ORIGINS,
    )
    before = [dict(one) for one in names]
    monkeypatch.syspath_prepend(tmp_path)

    def write(name, text=MINE):
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        return f"--import={name}"

    yield write
    for one, old in zip(names, before, strict=True):
        one.clear()
        one.update(old)
    for name in [n for n in sys.modules if n.startswith("users_")]:
        del sys.modules[name]


@pytest.mark.thorough
def test_a_run_of_nothing_but_ones_own(tmp_path, module):
    folder = tmp_path / "run"
    own = [
        module("users_own"),
        "--uplink=largest(0.1)",
        "--model=narrow(6)",
        "--client_optimizer=heavy(0.2)",
        "--algorithm=half_averaged(share=0.25)",
    ]
    main(["", f"--workdir={folder}", *own, *QUICK])
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["num_parameters"] == 64 * 6 + 6 + 6 * 10 + 10
    sent = summary["uplink_bytes"] / summary["uplink_messages"]
    assert sent < 0.25 * 4 * summary["num_parameters"]
    assert json.loads((folder / "config.json").read_text())["flags"]["import"] == [
        "users_own"
    ]
    run_again(folder, tmp_path / "again")
    again = json.loads((tmp_path / "again" / "summary.json").read_text())
    assert again["params_sha256"] == summary["params_sha256"]


def test_an_installed_package_needs_no_flag(module, monkeypatch):
    module("users_installed")
    entry = importlib.metadata.EntryPoint("theirs", "users_installed", own_names.GROUP)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [entry] * 2)
    own_names.offer_own(run_flags())
    assert expressions.build("uplink", "largest(0.1)") is not None
    assert "_hidden" not in expressions.COMPRESSORS


STEADY = """
import optax
from fedjax_comp.algorithms import fed_avg
from fedjax_comp.base import Algorithm, Task

def steady(task: Task, *, rate: float = 0.1) -> Algorithm:
    return fed_avg(task, client_optimizer=optax.sgd(rate))
"""


def test_an_algorithm_need_not_have_what_no_flag_asks_for(tmp_path, module, capsys):
    flags = [module("users_steady", STEADY), "--algorithm=steady()", *QUICK]
    own = [f"--workdir={tmp_path / 'run'}", "--client_optimizer=adam(0.1)", *flags]
    told = "--client_optimizer=adam(0.1): steady() has no client_optimizer"
    assert told in mistake(main, capsys, own)
    values = define()
    defaults = {name: values[name].default for name in values}
    algorithms.check_asked(algorithms.Chosen("steady", {}), defaults)


def test_a_default_asks_for_nothing():
    values = define()
    written = {x: values[x].default for x in algorithms.FROM_FLAGS if x in values}
    assert {"client_optimizer", "execution", "uplink"} <= written.keys()
    assert written == {name: algorithms.FROM_FLAGS[name] for name in written}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("import nowhere_at_all", "cannot be imported (ModuleNotFoundError"),
        ("1 / 0", "cannot be imported (ZeroDivisionError: division by zero)"),
        ("def f(): ...", "has no public function that says it returns a Compressor"),
        (MINE.replace("largest", "top_k"), "top_k is taken"),
    ],
)
def test_what_cannot_be_offered_is_told(tmp_path, module, capsys, text, told):
    if "def top_k" in text:
        text = text.replace("error_feedback(top_k(share))", "error_feedback(None)")
    flag = module("users_wrong", text)
    assert told in mistake(main, capsys, [f"--workdir={tmp_path / 'run'}", flag])
    assert not (tmp_path / "run").exists()
