"""A run of many rounds keeps its rate and its memory.

    python -m tests.soak.rounds --results=rounds.jsonl [--rounds=100000]

A model of 18 numbers and two clients, so that what the host does is all there is:
checkpoints, rows, events, the ledger. Every tenth of the rounds is a line: rounds a
second, and the memory in use after it.
"""

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedjax_comp.algorithms.fed_avg import fed_avg
from fedjax_comp.hooks import Hook, Live
from fedjax_comp.keys import make_key
from fedjax_comp.problem import Problem, Schedule
from fedjax_comp.run import run
from fedjax_comp.run_directory import open_run
from fedjax_comp.training import Evaluation
from tests.problems import make_cohort, make_examples, softmax_task

SIZES = (4, 3)


def small_problem() -> Problem:
    """Two clients and a softmax of five inputs and three classes."""
    task = softmax_task()
    return Problem(
        algorithm=fed_avg(task, client_optimizer=optax.sgd(0.01)),
        sample=lambda key, index, data: data,
        data=make_cohort(list(SIZES), 2),
        params=task.init(make_key(0)),
        num_clients=len(SIZES),
        evaluate=lambda params, examples: Evaluation(
            jnp.sum(params["bias"]), jnp.mean(examples.x)
        ),
        test=make_examples(3),
        links={},
    )


def resident_bytes() -> int:
    """The memory in use, where the system tells; else the most that ever was."""
    statistics = Path("/proc/self/statm")
    if statistics.exists():
        pages = int(statistics.read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measured(rounds: int, workdir: Path) -> list[dict[str, Any]]:
    """Rate and memory of every tenth of a run."""
    rows: list[dict[str, Any]] = []
    last = [time.monotonic(), 0]

    def after(live: Live, state: object, dispatch: object) -> None:
        done = live.ledger.rounds
        if done % (rounds // 10):
            return
        now = time.monotonic()
        rows.append(
            {
                "rounds": done,
                "rounds_per_second": round((done - last[1]) / (now - last[0])),
                "resident_mb": round(resident_bytes() / 1e6, 1),
            }
        )
        last[:] = [now, done]
        print(json.dumps(rows[-1]), flush=True)

    run(
        open_run(workdir, "soak", {}),
        small_problem(),
        Schedule(rounds, eval_every=20, checkpoint_every=200),
        jax.random.key(1),
        hooks=[Hook(after=after, every=rounds // 10)],
        show_progress=False,
    )
    return rows


def main() -> None:
    """Appends a line of JSON for every tenth of the run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=100_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measured(given.rounds, Path(folder))
    with given.results.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    main()
