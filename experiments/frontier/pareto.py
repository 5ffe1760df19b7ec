"""What a pipeline cost to the target, and which ones no other beats."""

from collections.abc import Sequence

from fedjax_comp.metrics import Row
from fedjax_comp.run_directory import Json


def cost_to_target(rows: Sequence[Row], target: float) -> Json:
    """Rounds and bytes at the first evaluation that reached the target.

    Args:
      rows: evaluations in order.
      target: a test accuracy.

    Returns:
      `rounds_to_target`, `uplink_bytes_to_target` and `total_bytes_to_target`, all None
      when it was not reached.

    >>> row = {"round": 3, "test_accuracy": 0.9, "uplink_bytes": 5, "downlink_bytes": 7}
    >>> cost_to_target([row], 0.9)["total_bytes_to_target"]
    12
    """
    for row in rows:
        if row["test_accuracy"] >= target:
            return {
                "rounds_to_target": row["round"],
                "uplink_bytes_to_target": row["uplink_bytes"],
                "total_bytes_to_target": row["uplink_bytes"] + row["downlink_bytes"],
            }
    return dict.fromkeys(
        ("rounds_to_target", "uplink_bytes_to_target", "total_bytes_to_target")
    )


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
