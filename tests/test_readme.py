"""The README's example runs as it stands, and does what it says."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_comp.algorithms.fed_avg import fed_avg
from fedjax_comp.algorithms.fed_nova import fed_nova
from fedjax_comp.compress import error_feedback, identity, top_k
from fedjax_comp.problem import Schedule
from fedjax_comp.run_directory import open_run
from fedjax_comp.wire.accounting import message_bits
from tests.conformance import algorithm_checks, algorithm_table
from tests.conformance import compressor_checks as checks
from tests.conformance.compressor_bounds import contractive
from tests.conformance.compressor_keys import check_keys
from tests.conformance.compressor_magnitudes import check_magnitudes
from tests.conformance.compressor_statistics import check_errors
from tests.problems import make_cohort, softmax_task, stack_clients
from tests.test_hooks import problem

ROOT = Path(__file__).parents[1]


def run_block(words):
    """The names that the README's block of Python with these words defines."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    (block,) = [block for block in blocks if words in block]
    names = {}
    exec(compile(block, "README.md", "exec"), names)
    return names


def test_the_compressor_of_the_worked_example_passes_the_battery():
    entry = contractive("ternary", run_block("def ternary")["ternary"], lambda n: 1.0)
    checks.check_leaves(entry)
    checks.check_wire(entry)
    checks.check_broken(entry)
    check_errors(entry)
    check_magnitudes(entry)
    check_keys(entry)


@pytest.mark.thorough
def test_the_algorithm_of_the_worked_example_passes_the_battery():
    example = run_block("def fed_nova")["fed_nova"]
    uplink = error_feedback(top_k(0.5))

    def make(execution, keep_messages):
        return example(
            softmax_task(),
            client_optimizer=optax.sgd(0.3),
            uplink=uplink,
            execution=execution,
            keep_messages=keep_messages,
        )

    links = {"uplink": uplink, "downlink": identity()}
    entry = algorithm_table.Entry(make, links).under("chunked(2)")
    for check in algorithm_checks.CHECKS.values():
        check(entry)


def test_the_algorithm_of_the_worked_example_is_fed_nova():
    """w + (sum_i p_i tau_i) sum_i p_i (w_i - w) / tau_i, with FedAvg's local models."""
    sizes, task = [6, 3, 9], softmax_task()
    cohort = make_cohort(sizes, batch_size=3)
    params = task.init(jax.random.key(1))
    optimizer = optax.sgd(0.3)

    def moved(make, cohort):
        algorithm = make(task, client_optimizer=optimizer)
        server, template = algorithm.init(jax.random.key(0), params)
        clients = stack_clients(template, 3)
        step = jax.jit(algorithm.round)
        server, _, _ = step(jax.random.key(2), server, clients, cohort)
        change = jax.tree.map(jnp.subtract, algorithm.params(server), params)
        return np.concatenate([np.ravel(x) for x in jax.tree.leaves(change)])

    def alone(i):
        active = jnp.arange(3) == i
        return moved(
            fed_avg, cohort._replace(clients=cohort.clients._replace(active=active))
        )

    shares, steps = np.array(sizes) / sum(sizes), np.array(sizes) / 3
    expected = sum(p * alone(i) / steps[i] for i, p in enumerate(shares))
    for make in (run_block("def fed_nova")["fed_nova"], fed_nova):
        got = moved(make, cohort)
        wanted = (shares @ steps) * expected
        np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=2e-6)
    assert not np.allclose(got, moved(fed_avg, cohort), atol=1e-3)


@pytest.mark.thorough
def test_the_notebook_example_runs(capsys):
    names = run_block("run_rounds = jax.jit")
    assert names["accuracy"] > 0.85
    num_parameters = sum(x.size for x in jax.tree.leaves(names["params"]))
    dense = 100 * 10 * 4 * num_parameters
    assert 0 < names["ledger"].uplink_bytes < dense / 20
    assert "bytes up" in capsys.readouterr().out


@pytest.mark.thorough
def test_a_compressor_is_an_optax_transformation():
    optimizer = run_block("compressed = as_optax")["optimizer"]
    params = jnp.zeros(200)
    with jax.numpy_dtype_promotion("standard"):  # as Adam has it
        state = optimizer.init(params)
        updates, state = optimizer.update(jnp.arange(200.0), state, params)
    assert updates.shape == (200,)
    assert message_bits(state[0].bits) < 200


def test_every_experiment_is_listed():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for readme in sorted((ROOT / "experiments").glob("*/README.md")):
        assert readme.relative_to(ROOT).as_posix() in text


def test_the_tracker_of_the_readme_hears_every_evaluation(tmp_path):
    tracked, heard = run_block("forwarded(log)")["tracked"], {}
    tracked(
        open_run(tmp_path, "tracker", {}),
        problem(),
        Schedule(2, eval_every=1),
        jax.random.key(0),
        lambda numbers, step: heard.update({step: numbers}),
    )
    assert list(heard) == [0, 1, 2]
    assert heard[2]["uplink_bytes"] > heard[1]["uplink_bytes"] > 0
