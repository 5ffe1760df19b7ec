"""What every test and doctest runs under.

It stands at the root because doctests live beside the code. Array programs are held to
rules that users may switch on: nothing may rely on implicit rank or dtype promotion.
"""

import gc
import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

# Several test processes may share one accelerator, so none may take all its memory.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
# Each test process has a core; a factorization on all of them would stand in the way of
# the others.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Nearly all the time of the tests is XLA's, compiling some thousand small programs, and
# these take a third off it. A flag that XLA does not know ends the process, so they are
# for the versions they were tried with. `make slow` sets the variable and so compiles
# as users do.
if version("jaxlib").startswith("0.10."):
    os.environ.setdefault(
        "XLA_FLAGS",
        "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1",
    )
# A program that has not changed since it was last tested is not compiled again, which
# shortens a second `make test`. CI has nothing from before: there all are compiled.
if not os.environ.get("CI"):
    compiled = Path(__file__).parent / ".pytest_cache" / "compiled"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(compiled))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.02")

import hypothesis
import jax
import matplotlib
import pytest

# Tracing makes many objects and little garbage: at Python's own thresholds a tenth of
# the time is spent on looking for it.
gc.set_threshold(100_000, 20, 20)

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
matplotlib.use("Agg")

# The first example of a property compiles, so no deadline can hold for it. Under CI the
# examples are the same every time: a failure there is one of the commit.
hypothesis.settings.register_profile(
    "fedjax_comp", deadline=None, derandomize=bool(os.environ.get("CI"))
)
hypothesis.settings.load_profile("fedjax_comp")

RAW_DATA_VARIABLE = "FEDJAX_COMP_RAW_DATA"


@pytest.fixture(scope="session")
def raw_data_dir() -> Path:
    """The folder of raw data sets: named by the environment, else beside the project.

    Without one a test is skipped, except under CI, where a skipped test would pass
    unnoticed.
    """
    named = os.environ.get(RAW_DATA_VARIABLE)
    beside = Path(__file__).resolve().parent.parent / "shared" / "data"
    folder = Path(named) if named else beside
    if folder.is_dir():
        return folder
    message = f"No raw data in {folder}: set {RAW_DATA_VARIABLE} to its folder."
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(autouse=True)
def compile_fast(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leaves XLA's costly passes out where hundreds of small programs are compiled.

    Whole runs (`tests/test_*.py`), logs of runs, which are compared bit for bit, and
    what is marked slow are compiled as users compile them; the README's examples are
    small.
    """
    as_users = request.path.parent.name in ("tests", "audit")
    as_users = as_users and request.path.name != "test_readme.py"
    if as_users or request.node.get_closest_marker("slow"):
        yield
        return
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
