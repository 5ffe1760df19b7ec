"""The Pareto front: the pipelines that no other one beats."""

from collections.abc import Sequence

from fedjax_comp.run_directory import Json


def pareto_front(points: Sequence[Json], costs: tuple[str, str]) -> list[Json]:
    """Those points that no other equals or beats in both costs, cheapest first.

    Args:
      points: rows with both costs.
      costs: names of two columns, both to be small.

    Returns:
      The front, in rising order of the first cost.

    >>> points = [{"a": 1, "b": 5}, {"a": 2, "b": 5}, {"a": 3, "b": 1}]
    >>> pareto_front(points, ("a", "b"))
    [{'a': 1, 'b': 5}, {'a': 3, 'b': 1}]
    """
    front: list[Json] = []
    for point in sorted(points, key=lambda point: (point[costs[0]], point[costs[1]])):
        if not front or point[costs[1]] < front[-1][costs[1]]:
            front.append(point)
    return front
