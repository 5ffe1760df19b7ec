"""Everyone speaks, and the first k: against rules written client by client."""

import numpy as np
import pytest

from fedjax_comp.network.arrival_control import everyone_speaks, first_arrivals
from tests.network.test_control import LADDER, conditions, statistics


def times(now, rates, spent):
    """When client `i` has rung `r` at the server, one after another."""
    return [
        [
            spent[i] + now.encode_seconds[i, r] + LADDER.bits[r] / rates[i]
            for r in range(LADDER.bits.size)
        ]
        for i in range(rates.size)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_rules_are_those_written_client_by_client(seed):
    random = np.random.default_rng(seed)
    count, share, own = 7, 0.6, 2
    now = conditions(random.lognormal(7, 2, count))._replace(
        fresh_rates=random.lognormal(7, 2, count),
        encode_seconds=random.uniform(0, 3, (count, 4)),
    )
    expected = times(now, now.known_rates, now.ready_seconds)
    actual = times(now, now.fresh_rates, now.spent_seconds)
    fifth = sorted(row[own] for row in expected)[4]
    spoken = []
    for row in actual:
        in_time = [r for r in range(4) if row[r] <= fifth]
        spoken.append(own if own in in_time else min(in_time, default=0))
    controller = everyone_speaks(LADDER, LADDER.bits[own], share=share)
    state, budgets = controller.step(controller.state, now, statistics(count))
    assert budgets.tolist() == LADDER.bits[spoken].tolist()
    assert state["seconds"] == pytest.approx(fifth)

    fifth = sorted(min(row) for row in expected)[4]
    sent = []
    for row in actual:
        in_time = [r for r in range(4) if row[r] <= fifth]
        sent.append(max(in_time) if in_time else int(np.argmin(row)))
    controller = first_arrivals(LADDER, share=share)
    _, budgets = controller.step(controller.state, now, statistics(count))
    assert budgets.tolist() == LADDER.bits[sent].tolist()


def test_equal_links_are_given_equal_messages():
    """With nothing to adapt to, one is the fixed setting, and so is the other."""
    now, known = conditions((2e3,) * 5), statistics(5)
    for share in (0.2, 1.0):
        controller = everyone_speaks(LADDER, 2000.0, share=share)
        assert controller.step({}, now, known)[1].tolist() == [2000.0] * 5
        first = first_arrivals(LADDER, share=share)
        assert first.step({}, now, known)[1].tolist() == [500.0] * 5


def test_nobody_is_left_out_however_slow():
    now = conditions((1e-3, 4e3, 4e3, 1e6))
    for controller in (everyone_speaks(LADDER, 2000.0), first_arrivals(LADDER)):
        budgets = controller.step(controller.state, now, statistics(4))[1]
        assert (budgets >= LADDER.bits[0]).all()
        assert budgets[0] == LADDER.bits[0]
    # While nothing is known, all say it briefly.
    unknown = conditions((1e6,) * 4, known=False)
    speaks = everyone_speaks(LADDER, 2000.0)
    assert (speaks.step({}, unknown, statistics(4))[1] == LADDER.bits[0]).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda: everyone_speaks(LADDER, 0.0),
        lambda: everyone_speaks(LADDER, 1.0, share=0.0),
        lambda: first_arrivals(LADDER, share=1.5),
    ],
)
def test_impossible_controllers_are_refused(make):
    with pytest.raises(ValueError, match="Expected"):
        make()
