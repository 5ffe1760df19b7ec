"""The program that ends jaxlib 0.11.2, and the same by `sharded`, which may not."""

import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp

from fedjax_comp.execution import sharded

CRASHES = ("0.11.2",)


def test_which_jaxlib_crashes():
    # Once no supported version does, `fedjax_comp/shards.py` may hand empty arrays on.
    script = Path(__file__).with_name("empty_shard.py")
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=120
    )
    if version("jaxlib") in CRASHES:
        assert done.returncode == -signal.SIGSEGV
    else:
        assert done.returncode == 0, done.stderr
        assert done.stdout.split("\n")[0] == "(4, 0, 5) (4,)"


def test_the_same_by_sharded():
    run = jax.jit(sharded()(lambda shared, client: ((), client)))
    _, (empty, full) = run(None, (jnp.zeros((4, 0, 5)), jnp.arange(4.0)))
    assert empty.shape == (4, 0, 5)
    assert full.tolist() == [0.0, 1.0, 2.0, 3.0]
