"""Draws mutants: copies of a module with one small fault each.

The faults are cosmic-ray's (an operator, comparison, number or keyword replaced, a loop
that never runs, an exception that is not caught, a decorator taken away), and one of
this file: a call made for its effect, or the test of an `if`, is left out.

What no test should see is left alone: annotations, docstrings and other strings, what
is said when raising, and `==` against `is`.
"""

import ast
import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("wire", "compress", "server", "client", "training", "audit", "privacy")
REMOVED = "RemoveStatement"

Position = tuple[int, int]


class Mutant(NamedTuple):
    """One fault: the `occurrence`-th place of a module that `operator` can change."""

    path: str
    operator: str
    occurrence: int
    line: int
    column: int


class RemoveStatement:
    """`f(x)` as a statement becomes `pass`; `if test` becomes `if False`."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[Position, Position]]:
        first = node.children[0] if node.type == "simple_stmt" else node
        called = (
            first.type in ("atom_expr", "power")
            and first.children[-1].type == "trailer"
            and first.children[-1].children[0].value == "("
        )
        if node.type == "if_stmt" or (node.type == "simple_stmt" and called):
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        import parso

        place, word = (1, "False") if node.type == "if_stmt" else (0, "pass")
        prefix = node.children[place].get_first_leaf().prefix
        node.children[place] = parso.parse(prefix + word)
        return node


def operators() -> dict[str, Any]:
    """Name to operator, without those that only change how equals are told."""
    from cosmic_ray.operators.provider import OperatorProvider

    provider = OperatorProvider()
    found = {}
    for name in provider:
        ends = set(name.partition("ComparisonOperator_")[2].split("_"))
        if ends & {"Is", "IsNot"} and ends != {"Is", "IsNot"}:
            continue
        if not name.startswith("Variable"):  # these need arguments
            found[name] = provider[name]()
    return {**found, REMOVED: RemoveStatement()}


def left_alone(source: str) -> list[tuple[Position, Position]]:
    """Where a change is not a fault: annotations, and what is said when raising.

    >>> left_alone("def f(x: int | None): raise ValueError(f'{x + 1}')")
    [((1, 9), (1, 19)), ((1, 39), (1, 49))]
    """
    nodes: list[ast.expr] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation:
            nodes.append(node.annotation)
        elif isinstance(node, ast.FunctionDef) and node.returns:
            nodes.append(node.returns)
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            nodes += [*node.exc.args, *(word.value for word in node.exc.keywords)]
    return sorted(
        (
            (node.lineno, node.col_offset),
            (node.end_lineno or 0, node.end_col_offset or 0),
        )
        for node in nodes
    )


def mutants(path: str, known: dict[str, Any]) -> list[Mutant]:
    """Every mutant of one module, by operator and place."""
    from cosmic_ray.ast import ast_nodes, get_ast

    source = (ROOT / path).read_text(encoding="utf-8")
    spared = left_alone(source)
    quiet = ("name", "newline", "string", "endmarker")
    nodes = [node for node in ast_nodes(get_ast(source)) if node.type not in quiet]
    found = []
    for name, operator in known.items():
        places = (
            place for node in nodes for place in operator.mutation_positions(node)
        )
        for occurrence, (start, _) in enumerate(places):
            if not any(first <= start < last for first, last in spared):
                found.append(Mutant(path, name, occurrence, *start))
    return found


def mutated(mutant: Mutant) -> str | None:
    """The module with its fault; None when it is no other program, or no program."""
    from cosmic_ray.mutating import mutate_code

    source = (ROOT / mutant.path).read_text(encoding="utf-8")
    code = mutate_code(source, operators()[mutant.operator], mutant.occurrence)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            changed = ast.dump(ast.parse(code or "")) != ast.dump(ast.parse(source))
    except SyntaxError:
        return None
    return code if code and changed else None


def draw(package: str, count: int, seed: int) -> list[Mutant]:
    """A sample of one package's mutants: first a place, then one of its faults.

    Every place has the same chance, so that a `+`, which has eleven faults, does not
    count eleven times; a second fault of a place is taken when all have had one.
    """
    folder = ROOT / "fedjax_comp" / package
    files = sorted(folder.rglob("*.py")) or [folder.with_suffix(".py")]
    known = operators()
    places: dict[tuple[str, int, int], list[Mutant]] = {}
    for file in files:
        for mutant in mutants(str(file.relative_to(ROOT)), known):
            key = (mutant.path, mutant.line, mutant.column)
            places.setdefault(key, []).append(mutant)
    chance = random.Random(f"{seed} {package}")
    order = sorted(places)
    chance.shuffle(order)
    sample: list[Mutant] = []
    while order and len(sample) < count:
        for place in order:
            mutant = chance.choice(places[place])
            places[place].remove(mutant)
            if len(sample) < count and mutated(mutant):
                sample.append(mutant)
        order = [place for place in order if places[place]]
    return sample
