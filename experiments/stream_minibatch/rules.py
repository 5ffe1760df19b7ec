"""Rules for learning from a stream: minibatches, rounds of messages, the graph."""

from collections.abc import Sequence
from typing import NamedTuple

from fedjax_comp.algorithms.graphs import Graph, complete, edges, expander, ring, torus
from fedjax_comp.base import Compressor
from fedjax_comp.experiment.expressions import COMPRESSORS
from fedjax_comp.experiment.main import UsageError
from fedjax_comp.experiment.pipelines import parse_named
from fedjax_comp.expression import parse


class Rule(NamedTuple):
    """A way of learning from a stream.

    Attributes:
      batch: samples of a minibatch in the whole network, `B`.
      nodes: `N`.
      rounds: rounds of messages for a minibatch, `R`.
      graph: whom nodes talk to; None for exact averaging.
      discarded: `mu`, or None for what the rates make of it.
      scale: of the steps, as a multiple of the command's.
      compressor: of what is sent up, or to neighbours.
    """

    batch: int
    nodes: int
    rounds: int
    graph: Graph | None
    discarded: float | None
    scale: float
    compressor: Compressor | None


def minibatch(
    batch: int,
    *,
    nodes: int = 16,
    rounds: int = 8,
    discarded: float | None = None,
    scale: float = 1.0,
    compressor: Compressor | None = None,
) -> Rule:
    """Exact averaging; as a tree of 16 nodes, up and down, it takes 8 rounds."""
    _check(batch, nodes, rounds, discarded, scale)
    return Rule(batch, nodes, rounds, None, discarded, scale, compressor)


def consensus(
    graph: Graph,
    batch: int,
    *,
    rounds: int,
    discarded: float | None = None,
    scale: float = 1.0,
    compressor: Compressor | None = None,
) -> Rule:
    """Averaging over a graph, in so many rounds as are given."""
    _check(batch, graph.num_nodes, rounds, discarded, scale)
    return Rule(batch, graph.num_nodes, rounds, graph, discarded, scale, compressor)


FACTORIES: dict[str, object] = {
    **COMPRESSORS,
    "complete": complete,
    "consensus": consensus,
    "edges": edges,
    "expander": expander,
    "minibatch": minibatch,
    "ring": ring,
    "torus": torus,
}


def parse_rules(flag: str, texts: Sequence[str]) -> dict[str, Rule]:
    """All values of a flag, by name.

    Args:
      flag: the flag's name.
      texts: each `NAME: RULE`.

    Raises:
      ValueError: when one is not of that form, an expression is not valid, or two have
        one name.

    >>> parse_rules("pca", ["a: minibatch(32)"])["a"].batch
    32
    """
    form = (
        "'NAME: RULE', e.g. 'plain: minibatch(160)' or "
        "'ring: consensus(ring(16), 160, rounds=4)'"
    )
    rules = {}
    for name, (expression,) in parse_named(flag, texts, form):
        made = parse(expression, FACTORIES, flag=flag)
        if not isinstance(made, Rule):
            raise UsageError(
                f"--{flag}={name}: {expression} makes no rule; a value is {form}."
            )
        rules[name] = made
    return rules


def _check(
    batch: int, nodes: int, rounds: int, discarded: float | None, scale: float
) -> None:
    if nodes < 1 or batch < 1 or batch % nodes:
        raise ValueError(
            f"Expected batch={batch} to be a positive multiple of the {nodes} nodes."
        )
    if rounds < 0:
        raise ValueError(f"Expected rounds={rounds} >= 0.")
    if discarded is not None and not discarded >= 0:
        raise ValueError(f"Expected discarded={discarded} >= 0.")
    if not scale > 0:
        raise ValueError(f"Expected scale={scale} > 0.")
