"""The ledger counts exactly, and targets are measured as the field does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.base import Bits, Observed, RoundInfo, Traffic
from fedjax_comp.metrics import (
    Ledger,
    as_written,
    interpolated_rounds_to_target,
    to_target,
)
from fedjax_comp.training import Dispatch
from fedjax_comp.wire.traffic import to_client, to_server


def infos(rounds, clients):
    variable = np.arange(rounds * clients, dtype=np.uint32).reshape(rounds, clients)
    spoke = np.ones((rounds, clients), bool)
    spoke[0, 0] = False
    bits = Bits(fixed=2**33 + 3, variable=(jnp.asarray(variable),))
    ids = jnp.broadcast_to(jnp.arange(clients), spoke.shape)
    level = jnp.arange(rounds, dtype=jnp.float32) / 8
    return (
        RoundInfo(
            train_loss=jnp.arange(rounds, dtype=jnp.float32),
            client_steps=jnp.full(rounds, 2**30, jnp.int32),
            dropped=jnp.ones(rounds, jnp.int32),
            traffic={
                "uplink": Traffic(bits, spoke, to_server(ids)),
                "downlink": Traffic(bits, spoke, to_client(ids)),
            },
            observed={
                "count": Observed(2 * level),
                "share": Observed(level, "mean"),
                "size": Observed(level, "last"),
                "each": Observed(jnp.zeros((rounds, clients))),
            },
            messages={},
        ),
        variable,
        spoke,
    )


def test_totals_are_exact_past_32_bits_and_padding_is_ignored():
    info, variable, spoke = infos(5, 3)
    ledger = Ledger()
    ledger.record(Dispatch(info, {}, jnp.int32(4)))
    expected = sum(
        -(-(2**33 + 3 + int(v)) // 8)
        for v, s in zip(variable[:4].ravel(), spoke[:4].ravel(), strict=True)
        if s
    )
    assert ledger.uplink_bytes == expected == ledger.downlink_bytes
    assert ledger.uplink_messages == 11
    assert ledger.client_steps == 4 * 2**30
    assert ledger.dropped == 4
    row = ledger.add_row(test_accuracy=0.5, test_loss=1.0)
    assert row["train_loss"] == 1.5
    assert row["round"] == 4


def test_observations_of_rounds_make_what_the_algorithm_says():
    info, *_ = infos(5, 3)
    ledger = Ledger()
    ledger.record(Dispatch(info, {}, jnp.int32(4)))
    assert ledger.observed == {"count": 1.5, "share": 0.1875, "size": 0.375}
    # However the rounds are cut into dispatches, the numbers are the same.
    cut = Ledger()
    for start, stop in ((0, 1), (1, 4)):
        part = jax.tree.map(lambda x, a=start, b=stop: x[a:b], info)
        cut.record(Dispatch(part, {}, jnp.int32(stop - start)))
    assert cut.observed == ledger.observed


def test_rounds_without_a_record_are_refused():
    info, *_ = infos(5, 3)
    ledger = Ledger()
    with pytest.raises(ValueError, match="each of the 12 rounds, got 5"):
        ledger.record(Dispatch(info, {}, jnp.int32(12)))
    assert ledger == Ledger()


def test_a_loss_that_is_not_finite_is_none():
    info, *_ = infos(2, 3)
    ledger = Ledger()
    lost = info._replace(train_loss=jnp.array([jnp.inf, 1.0]))
    ledger.record(Dispatch(lost, {}, jnp.int32(2)))
    row = ledger.add_row(test_accuracy=0.5, test_loss=float("nan"))
    assert (row["test_loss"], row["train_loss"]) == (None, None)
    ledger.record(Dispatch(info, {}, jnp.int32(2)))
    row = ledger.add_row(test_accuracy=0.5, test_loss=0.25)
    assert (row["test_loss"], row["train_loss"]) == (0.25, 0.5)


def rows(*points):
    return [{"round": r, "test_accuracy": a} for r, a in points]


def test_interpolated_rounds_use_the_best_so_far():
    # Best so far is 0.6 at round 10 (0.2 at 20 is not), so 0.7 is crossed between 20
    # and 30, a quarter of the way from 0.6 to 1.0.
    curve = rows((0, 0.1), (10, 0.6), (20, 0.2), (30, 1.0))
    assert interpolated_rounds_to_target(curve, 0.7) == 22.5
    assert interpolated_rounds_to_target(curve, 0.05) == 0.0
    assert interpolated_rounds_to_target(rows((0, 0.1), (10, 0.6)), 0.9) is None
    assert interpolated_rounds_to_target([], 0.9) is None


def test_the_cost_of_a_target_is_that_of_the_first_evaluation_with_it():
    curve = [
        {"round": r, "test_accuracy": a, "uplink_bytes": 2 * r, "downlink_bytes": r}
        for r, a in ((0, 0.1), (10, 0.6), (20, 0.2), (30, 1.0))
    ]
    found = to_target(curve, 0.5)
    assert found == {
        "rounds_to_target": 10,
        "uplink_bytes_to_target": 20,
        "downlink_bytes_to_target": 10,
        "total_bytes_to_target": 30,
        "simulated_seconds_to_target": None,
        "joules_to_target": None,
    }
    assert to_target(curve, 0.1)["total_bytes_to_target"] == 0
    for nothing in (to_target(curve, None), to_target([], 0.5), to_target(curve, 1.1)):
        assert nothing == dict.fromkeys(found)


def test_a_target_that_is_just_reached_is_reached():
    seen = 0
    for count in (100, 113, 360, 500, 1000, 2000, 4088, 10_000):
        shares = np.arange(count + 1, dtype=np.float32) / np.float32(count)
        for right in range(1, count + 1):
            target = right / count
            if target == round(target, 4):  # as people write targets
                seen += float(shares[right]) < target
                assert as_written(shares[right - 1]) < target
                assert as_written(shares[right]) >= target
    assert seen > 1000  # which are less as they are
