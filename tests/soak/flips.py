"""Bits flipped in the newest checkpoint of a run, and in saved models.

    python -m tests.soak.flips --results=flips.jsonl [--flips=1000]

What is damaged is noticed, and then the checkpoint before counts, or it holds the
same numbers as before: other numbers are never restored.
"""

import argparse
import contextlib
import io
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp import models
from fedjax_comp.base import PyTree
from fedjax_comp.checkpoint import Checkpoints
from fedjax_comp.keys import make_key
from fedjax_comp.metrics import Ledger
from fedjax_comp.row_file import RowFile
from fedjax_comp.run_directory import RunDirectoryError
from fedjax_comp.saved_model import load_model, save_model

Outcome = str
"""`noticed`, `same` or `other numbers`."""


def a_state(seed: int) -> PyTree:
    """A model of some 60,000 numbers and a count."""
    drawn = jax.random.normal(make_key(seed), (240, 250))
    return {"count": jnp.int32(seed), "weights": drawn}


def equal(a: PyTree, b: PyTree) -> bool:
    """Whether two trees hold the same numbers."""
    return all(
        np.array_equal(x, y)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def flip(path: Path, numbers: random.Random) -> None:
    """Flips one bit anywhere in a file."""
    text = bytearray(path.read_bytes())
    text[numbers.randrange(len(text))] ^= 1 << numbers.randrange(8)
    path.write_bytes(text)


def checkpoint_outcome(path: Path) -> Outcome:
    """What resuming comes to after the newest of two checkpoints was damaged."""
    with Checkpoints(path) as checkpoints, contextlib.redirect_stderr(io.StringIO()):
        restored = checkpoints.restore(a_state(0))
    if restored is None:
        return "other numbers"
    rounds = restored.ledger.rounds
    if not equal(restored.state, a_state(rounds)):
        return "other numbers"
    return "same" if rounds == 2 else "noticed"


def model_outcome(path: Path, params: PyTree) -> Outcome:
    """What loading comes to after one of a model's files was damaged."""
    try:
        loaded = load_model(path)
    except ValueError:
        return "noticed"
    return "same" if equal(loaded.params, params) else "other numbers"


def flipped(
    whole: Path, below: str, outcome: Callable[[Path], Outcome], flips: int
) -> dict[str, int]:
    """Outcomes of single flips in the files below a folder, by their size."""
    numbers = random.Random(0)
    files = [p for p in (whole / below).rglob("*") if p.is_file() and p.stat().st_size]
    sizes = [path.stat().st_size for path in files]
    found = {"flips": flips, "noticed": 0, "same": 0, "other numbers": 0}
    copy = whole.with_name("copy")
    for file in numbers.choices(files, sizes, k=flips):
        shutil.copytree(whole, copy)
        flip(copy / file.relative_to(whole), numbers)
        try:
            found[outcome(copy)] += 1
        except RunDirectoryError:
            found["noticed"] += 1
        shutil.rmtree(copy)
    return found


def main() -> None:
    """Appends a line of JSON for each; exits with 1 where other numbers came back."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--flips", type=int, default=1000)
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as text:
        run, model = Path(text, "run"), Path(text, "model")
        run.mkdir()
        with Checkpoints(run) as checkpoints, RowFile(run / "metrics.jsonl") as file:
            for rounds in (1, 2):
                checkpoints.save(a_state(rounds), Ledger(rounds=rounds), file.mark())
        done = flipped(run, "checkpoints/2", checkpoint_outcome, given.flips)
        rows.append({"what": "newest checkpoint", **done})

        module = models.mlp(16)(3)
        params = module.init(make_key(0), jnp.ones((1, 20)))["params"]
        save_model(model, module, params)
        done = flipped(
            model, ".", lambda path: model_outcome(path, params), given.flips
        )
        rows.append({"what": "saved model", **done})
    with given.results.open("a", encoding="utf-8") as file:
        for row in rows:
            print(json.dumps(row), flush=True)
            file.write(json.dumps(row) + "\n")
    sys.exit(any(row["other numbers"] for row in rows))


if __name__ == "__main__":
    main()
