"""Controllers: each rule by hand, and the timed ones against trying everything."""

import itertools

import numpy as np
import pytest

from fedjax_comp.network.control import (
    NOT_INVITED,
    Conditions,
    Ladder,
    Statistics,
    accordion,
    ada_quant,
    client_levels,
    dada_quant,
    fixed,
    kimad,
    l_greco,
    rung_within,
)
from fedjax_comp.network.timed_control import (
    best_time,
    hardware_aware,
    relative_variance,
    signal_share,
    water_filled,
)

N = 1000
LADDER = Ladder(
    np.array([500.0, 1000, 2000, 4000]), np.array([2.2, 0.57, 0.13, 0.01]), N
)
START = water_filled(LADDER).state


def conditions(rates=(1e3, 2e3, 4e3), *, round_=3, encode=None, known=True):
    rates = np.array(rates, float)
    count = rates.size
    spent = np.full(count, 0.5)
    return Conditions(
        round=round_,
        known=np.full(count, known),
        known_rates=rates,
        fresh_rates=rates,
        ready_seconds=spent,
        spent_seconds=spent,
        latency_seconds=np.zeros(count),
        encode_seconds=np.zeros((count, 4)) if encode is None else np.array(encode),
        decode_seconds=np.zeros(4),
    )


def statistics(count=3, *, update_energy=0.5, loss=1.0, layers=(1.0,)):
    return Statistics(
        weights=np.full(count, 1 / count),
        energies=np.ones(count),
        layer_energies=np.array(layers),
        layer_sizes=np.full(len(layers), N / len(layers)),
        update_energy=update_energy,
        update_weight=1 / count,
        train_loss=loss,
    )


def test_fixed_and_kimad():
    assert fixed(8.0).step({}, conditions(), statistics())[1].tolist() == [8.0] * 3
    budgets = kimad(0.5).step({}, conditions(), statistics())[1]
    assert budgets.tolist() == [500.0, 1000.0, 2000.0]
    assert rung_within(LADDER, budgets).tolist() == [0, 1, 2]
    assert rung_within(LADDER, np.array([1.0, 1e9])).tolist() == [0, 3]


def test_accordion_is_gentle_while_the_norm_changes():
    controller = accordion(1.0, 9.0, threshold=0.5, interval=2)
    state, seen = controller.state, []
    for index, norm in enumerate([0, 8.0, 8.0, 7.0, 7.0, 7.0, 2.0, 2.0, 2.0]):
        known = statistics(update_energy=norm**2)
        state, budgets = controller.step(state, conditions(round_=index), known)
        seen.append(budgets[0])
    # Decided in rounds 2, 4, 6 and 8 on norms 8, 7, 2, 2: changes 0, 1/8, 5/7, 0.
    assert seen == [9, 9, 1, 1, 1, 1, 9, 9, 1]


@pytest.mark.parametrize("interval", [1, 3, 10])
def test_accordion_is_gentle_for_one_interval_where_nothing_changes(interval):
    controller = accordion(1.0, 9.0, interval=interval)
    state, seen = controller.state, []
    for index in range(2 * interval + 2):
        known = statistics(update_energy=float(index > 0))
        state, budgets = controller.step(state, conditions(round_=index), known)
        seen.append(budgets[0])
    # A change takes two norms: of the first round and of one behind it.
    assert seen.index(1.0) == max(interval, 2)
    assert set(seen[max(interval, 2) :]) == {1.0}


def test_ada_quant_rises_and_falls():
    for rising, expected in ((True, 2 * 2.0), (False, 2 / 2.0)):
        controller = ada_quant(N, levels=2, rising=rising)
        state, first = controller.step(
            controller.state, conditions(), statistics(loss=2.0)
        )
        assert first[0] == pytest.approx(N * np.log2(3))
        _, later = controller.step(state, conditions(), statistics(loss=0.5))
        assert later[0] == pytest.approx(N * np.log2(expected + 1))


def test_dada_quant_doubles_when_the_loss_stalls():
    controller = dada_quant(N, levels=1, patience=2, smoothing=0.0)
    state, levels = controller.state, []
    for loss in (4.0, 3.0, 3.0, 3.0, 2.0, 2.0, 2.0):
        state, budgets = controller.step(state, conditions(), statistics(loss=loss))
        levels.append(round(2 ** (budgets[0] / N) - 1))
    assert levels == [1, 1, 1, 2, 2, 2, 4]


def test_client_levels_have_the_least_sum_at_their_variance():
    weights = np.array([0.5, 0.3, 0.2])
    own = client_levels(weights, 3.0)
    variance = np.sum(weights**2 / 9)
    assert np.sum(weights**2 / own**2) == pytest.approx(variance)
    random = np.random.default_rng(0)
    for _ in range(200):
        other = own * np.exp(0.2 * random.normal(size=3))
        other *= np.sqrt(np.sum(weights**2 / other**2) / variance)
        assert other.sum() >= own.sum() - 1e-9


def test_l_greco_gives_bits_to_layers_that_need_them():
    controller = l_greco(LADDER, bits_per_coordinate=1.0, interval=2)
    state, first = controller.step(
        controller.state, conditions(), statistics(layers=(0.0, 0.0))
    )
    assert first[0, 0] == first[0, 1]
    state, budgets = controller.step(
        state, conditions(), statistics(layers=(9.0, 0.01))
    )
    assert budgets.shape == (3, 2)
    assert budgets[0, 0] >= budgets[0, 1]
    # No larger than the uniform choice, at no more error.
    assert budgets.sum() <= first.sum() * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_the_time_is_the_best_of_all_choices(seed):
    """Every client on every rung or left out: none has a smaller `T (1 + V)`."""
    random = np.random.default_rng(seed)
    count = 3
    known = statistics(count)._replace(
        weights=random.dirichlet(np.ones(count)), energies=random.uniform(0.5, 2, count)
    )
    seconds = LADDER.bits[None, :] / random.lognormal(7, 1, count)[:, None]
    seconds += random.uniform(0, 1, (count, 4))
    share = 0.4
    limit = best_time(seconds, LADDER, known, share, 1.0)

    def value(choice):
        speaks = np.array([rung is not None for rung in choice])
        if not speaks.any():
            return np.inf
        rungs = np.array([0 if rung is None else rung for rung in choice])
        time = max(seconds[i, r] for i, r in enumerate(rungs) if speaks[i])
        spread = relative_variance(known, LADDER.errors[rungs], speaks, share)
        return time * (1 + spread)

    # With a client in time, the rule takes it: compare with choices that do so, too.
    values = {
        choice: value(choice)
        for choice in itertools.product([None, 0, 1, 2, 3], repeat=count)
    }
    taken = []
    for i in range(count):
        inside = [r for r in range(4) if seconds[i, r] <= limit * (1 + 1e-9)]
        taken.append(min(inside, key=lambda r: LADDER.errors[r]) if inside else None)
    greedy = [
        c
        for c in values
        if all(
            c[i] is not None or seconds[i].min() > max_time(seconds, c)
            for i in range(count)
        )
    ]
    assert value(tuple(taken)) <= min(values[c] for c in greedy) * (1 + 1e-9)


def max_time(seconds, choice):
    return max(
        (seconds[i, r] for i, r in enumerate(choice) if r is not None), default=0
    )


def test_a_slow_processor_is_given_what_is_quickly_made():
    # The first client takes long to encode all but the shortest message.
    slow = [[0.0, 50.0, 50.0, 50.0]]
    quick = [[0.0] * 4] * 2
    now = conditions((4e3, 4e3, 4e3), encode=slow + quick)
    aware, unaware = (
        make(LADDER).step(START, now, statistics(update_energy=0.9))[1]
        for make in (hardware_aware, water_filled)
    )
    assert aware[0] < aware[1]
    assert unaware[0] == unaware[1]


def test_who_cannot_be_in_time_is_left_out_or_stays_silent():
    now = conditions((1.0, 4e3, 4e3))
    for make in (water_filled, hardware_aware):
        state, budgets = make(LADDER).step(START, now, statistics(update_energy=0.9))
        assert budgets[0] == NOT_INVITED
        assert (budgets[1:] > 0).all()
        # The server expects it in time; the client sees that it would not be.
        fades = conditions((4e3, 4e3, 4e3))._replace(
            fresh_rates=np.array([1.0, 4e3, 4e3])
        )
        state, budgets = make(LADDER).step(START, fades, statistics(update_energy=0.9))
        assert np.isnan(budgets[0])
        assert state["seconds"] > 0
        # One of whom nothing is known is heard.
        _, budgets = make(LADDER).step(START, fades._replace(known=np.zeros(3, bool)),
                                       statistics())  # fmt: skip
        assert budgets[0] == LADDER.bits[0]


def test_a_share_of_the_cohort_is_always_waited_for():
    seconds = np.tile(np.array([[1.0], [5.0], [9.0]]), (1, 4))
    times = [
        best_time(seconds, LADDER, statistics(), 1.0, 0.0, least)
        for least in (0.0, 0.5, 1.0)
    ]
    assert times == [1.0, 5.0, 9.0]


def test_signal_share_is_found_in_noisy_means():
    random = np.random.default_rng(0)
    count, n, share = 10, 4000, 0.0
    signal = random.normal(size=n) * np.sqrt(0.3)
    for _ in range(60):
        updates = signal + random.normal(size=(count, n)) * np.sqrt(0.7)
        mean = updates.mean(axis=0)
        known = statistics(count)._replace(
            energies=np.sum(updates**2, axis=1), update_energy=float(mean @ mean)
        )
        share = signal_share(known, share)
    # A running mean of five rounds; the energy of 4,000 numbers varies by 2 %.
    assert share == pytest.approx(signal @ signal / n, abs=0.05)


@pytest.mark.parametrize(
    "make",
    [
        lambda: fixed(0.0),
        lambda: kimad(-1.0),
        lambda: accordion(1.0, 0.0),
        lambda: accordion(1.0, 2.0, interval=0),
        lambda: ada_quant(0),
        lambda: dada_quant(N, smoothing=1.0),
        lambda: l_greco(LADDER, bits_per_coordinate=0.0),
        lambda: water_filled(LADDER, kappa=-1.0),
        lambda: hardware_aware(LADDER, least_share=1.5),
    ],
)
def test_impossible_controllers_are_refused(make):
    with pytest.raises(ValueError, match="Expected"):
        make()
