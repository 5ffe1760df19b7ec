"""The program of which jaxlib's CPU computes nonsense, and in which versions."""

import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import jax
import pytest

WRONG = ("0.10.2", "0.11.0", "0.11.1", "0.11.2", "0.12.0", "0.12.0.1")


def right(flags):
    """How many of the 64 sums are, in a process with these flags of XLA."""
    script = Path(__file__).with_name("constant_product.py")
    done = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "XLA_FLAGS": flags},
        check=True,
    )
    return int(done.stdout)


@pytest.mark.skipif(
    jax.default_backend() != "cpu" or platform.machine() != "x86_64",
    reason="the fault was seen on CPUs of x86-64 alone",
)
def test_which_jaxlib_is_wrong():
    # Once no supported version is, the warning in `CONTRIBUTING.md` may go.
    if version("jaxlib") in WRONG:
        assert right("") < 64
        assert right("--xla_cpu_experimental_ynn_fusion_type=-reduce") == 64
    else:
        assert right("") == 64
