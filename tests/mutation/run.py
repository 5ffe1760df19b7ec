"""Runs the tests on mutants and writes which are killed: `make mutants`.

A mutant is a fault planted in a copy of the tree. Tests run in three stages, each over
all mutants that the one before did not notice: those that mirror the module, others
that use it or stand beside, and the conformance battery. A test that fails kills the
mutant, and so does one that does not end. At the end, the tests that killed run once on
the tree without faults: what fails there too has killed nobody.

Results are appended to a file of JSON lines, so that an interrupted run goes on.
"""

import argparse
import collections
import contextlib
import difflib
import importlib
import itertools
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.mutation.mutants import PACKAGES, ROOT, Mutant, draw, mutated

# Imported once, before a process is forked for each stage: half a short stage's time.
PRELOADED = ("jax", "flax.linen", "optax", "orbax.checkpoint", "matplotlib.pyplot")
ALGORITHMS = "tests/conformance/test_algorithm_conformance.py"
COMPRESSORS = "tests/conformance/test_compressor_conformance.py"
FED_AVG = ["tests/algorithms/test_fed_avg.py", ALGORITHMS, "-k", "fed_avg and not prox"]
CONFORMANCE = {
    "wire": [COMPRESSORS, "-k", "bytes and (quantize or elias or top_k or trellis)"],
    "server": FED_AVG,
    "client": FED_AVG,
    "training": ["tests/test_run.py"],
}
NAP = 0.05
KILLED_BY = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", re.M)


def stages(path: str) -> list[list[str]]:
    """Arguments of pytest, stage by stage, for the module at `path`.

    A module's tests are its doctests, the files named after it, and those that import
    it by its own name; where there is neither, those that use a name it defines.
    """
    package, stem = Path(path).parts[1].removesuffix(".py"), Path(path).stem
    source = (ROOT / path).read_text(encoding="utf-8")
    names = re.findall(r"^(?:def|class) ([A-Za-z]\w*)", source, re.M)
    dotted = path.removesuffix(".py").replace("/", r"\.")
    files = sorted((ROOT / "tests" / package).rglob("test_*.py"))
    files += [
        ROOT / "tests/test_training.py",
        ROOT / "tests/network/test_simulation.py",
    ]
    text = {str(f.relative_to(ROOT)): f.read_text(encoding="utf-8") for f in files}

    def using(pattern: str) -> list[str]:
        return [file for file in text if re.search(pattern, text[file])]

    users = using(rf"\b({'|'.join(names)})\b") if names else []
    first = [file for file in text if Path(file).stem == f"test_{stem}"]
    first += [file for file in using(rf"{dotted} import") if file not in first]
    first = first or users
    room = str(Path("tests", *Path(path).parts[1:-1])) + "/"
    rest = [file for file in text if file in users or file.startswith(room)]
    if package == "compress":
        last = [COMPRESSORS, "-k", " or ".join([stem, *names])]
    else:
        last = CONFORMANCE.get(package, [])
    return [[path, *first], [file for file in rest if file not in first], last]


def run_tests(arguments: list[str], tree: Path, log: Path, limit: float) -> int | None:
    """Forks, runs pytest in `tree`; the exit status, or None past `limit` seconds."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.setsid()
            os.chdir(tree)
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            sys.path[:0] = [str(tree)]
            for name in [name for name in sys.modules if name.startswith("tests")]:
                del sys.modules[name]
            import pytest

            options = [
                "-x",
                "-q",
                "--tb=line",
                "-p",
                "no:cacheprovider",
                "-m",
                "not slow",
            ]
            status = int(pytest.main([*options, *arguments]))
            sys.stdout.flush()
            os._exit(status)
        os._exit(70)
    try:
        # Naps and not the clock, which would run on while this run is stopped.
        for _ in range(round(limit / NAP)):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(NAP)
        return None
    finally:  # also what a test left running, and when this run is stopped
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)


def copy_tree(tree: Path) -> None:
    """A fresh copy of what the tests need."""
    shutil.rmtree(tree, ignore_errors=True)
    ignored = shutil.ignore_patterns(".*", "__pycache__", "runs", "build", "*.egg-info")
    shutil.copytree(ROOT, tree, ignore=ignored, ignore_dangling_symlinks=True)


def judge(
    mutant: Mutant, stage: int, work: Path, limit: float, age: int
) -> dict[str, Any]:
    """What became of a mutant in one stage, and by which test."""
    tree, log, start = work / "tree", work / "log", time.monotonic()
    copy_tree(tree)
    code, source = mutated(mutant), (ROOT / mutant.path).read_text(encoding="utf-8")
    assert code is not None
    (tree / mutant.path).write_text(code, encoding="utf-8")
    os.utime(tree / mutant.path, (age, age))  # compiled code is told apart by its time
    before, after = source.splitlines(), code.splitlines()
    lines = difflib.unified_diff(before, after, n=0, lineterm="")
    outcome, by, arguments = "survived", "", stages(mutant.path)[stage]
    status = run_tests(arguments, tree, log, limit) if arguments else 0
    if status not in (0, 5):  # all passed; nothing was selected
        text = log.read_text(encoding="utf-8", errors="replace")
        if status in (4, 70):
            raise RuntimeError(f"pytest could not start on {arguments}:\n{text}")
        outcome = "timeout" if status is None else "killed"
        by = next(iter(KILLED_BY.findall(text)), f"status {status}")
    return {
        **mutant._asdict(),
        "package": Path(mutant.path).parts[1].removesuffix(".py"),
        "outcome": outcome,
        "stage": stage,
        "by": by,
        "seconds": round(time.monotonic() - start, 1),
        "diff": [x for x in lines if not x.startswith(("---", "+++", "@@"))],
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: outcomes by package, then each survivor with its diff."""
    lines = ["| package | mutants | killed | timeout | survived | share killed |"]
    lines += ["|---|---|---|---|---|---|"]
    for package in (*PACKAGES, "all"):
        own = [row for row in rows if package in (row["package"], "all")]
        of = collections.Counter(row["outcome"] for row in own)
        share = 1 - of["survived"] / max(len(own), 1)
        counts = f"{of['killed']} | {of['timeout']} | {of['survived']} | {share:.1%}"
        lines.append(f"| {package} | {len(own)} | {counts} |")
    for row in rows:
        if row["outcome"] == "survived":
            lines += ["", f"`{row['path']}:{row['line']}` {row['operator']}", ""]
            lines += ["```diff", *row["diff"], "```"]
    return "\n".join(lines)


def read(path: Path) -> dict[Mutant, dict[str, Any]]:
    """Mutant to its last row in a file of results; none where there is no file."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    rows = [json.loads(line) for line in text.splitlines()]
    return {Mutant(*(row[name] for name in Mutant._fields)): row for row in rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, required=True, help="a .jsonl file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--each", type=int, default=30, help="mutants of each package")
    parser.add_argument("--packages", nargs="+", default=PACKAGES, choices=PACKAGES)
    parser.add_argument("--again", type=Path, help="results whose survivors run again")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds a stage")
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "mutants"
    )
    parser.add_argument("--table", action="store_true", help="only print the table")
    options = parser.parse_args()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    options.results.parent.mkdir(parents=True, exist_ok=True)
    os.environ |= {
        "CI": "1",  # hypothesis draws the same examples every time
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(work / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "PYTHONPATH": str(work / "tree"),
        "PYTHONPYCACHEPREFIX": str(work / "bytecode"),
    }
    sys.pycache_prefix = str(work / "bytecode")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped; the same goes on"))
    rows = read(options.results)
    if options.again:
        old = read(options.again)
        todo = [mutant for mutant in old if old[mutant]["outcome"] == "survived"]
    else:
        samples = [draw(p, options.each, options.seed) for p in options.packages]
        longest = max(map(len, samples))  # the packages in turn
        todo = [s[i] for i in range(longest) for s in samples if i < len(s)]
    todo = [] if options.table else todo
    for name in PRELOADED if todo else ():
        importlib.import_module(name)
    for stage, mutant in itertools.product(range(3), todo):
        last = rows.get(mutant, {"outcome": "survived", "stage": -1})
        if last["outcome"] != "survived" or last["stage"] >= stage:
            continue
        age = 10**9 + 3 * todo.index(mutant) + stage
        row = rows[mutant] = judge(mutant, stage, work, options.limit, age)
        with options.results.open("a", encoding="utf-8") as file:
            print(json.dumps(row), file=file)
        shown = (row[key] for key in ("outcome", "stage", "seconds", "path", "line"))
        print(*shown, flush=True)
    # Without parameters: a fault may have changed their names.
    killers = {row["by"].partition("[")[0] for row in rows.values()}
    killers = sorted(name for name in killers if "::" in name)
    if killers and todo:
        copy_tree(work / "tree")
        killers.append("--maxfail=1000")
        status = run_tests(killers, work / "tree", work / "log", 3600)
        print((work / "log").read_text(encoding="utf-8").splitlines()[-1], status)
    print(table(list(rows.values())))


if __name__ == "__main__":
    main()
