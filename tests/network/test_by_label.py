"""Links dealt by labels: a permutation, independent at 0 and sorted at 1."""

import math

import numpy as np
import pytest
from scipy import stats

from experiments.fed_avg.run import main
from fedjax_comp import data
from fedjax_comp.network import by_label, constant, intermittent, lognormal
from fedjax_comp.network.by_label import mean_labels, slow_order
from fedjax_comp.network.links import mean_uplink_rate

CLIENTS = 2000


def rank_correlation(rho, seed=0):
    random = np.random.default_rng(seed)
    labels = random.uniform(size=CLIENTS)
    slowness = np.empty(CLIENTS)
    slowness[slow_order(labels, rho, random)] = np.arange(CLIENTS)[::-1]
    return stats.spearmanr(labels, slowness).statistic


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.5, 0.9])
def test_the_rank_correlation_is_that_of_a_gaussian_copula(rho):
    expected = 6 / math.pi * math.asin(rho / 2)
    # The deviation of a rank correlation is at most 1 / sqrt(K - 1), reached at 0.
    assert abs(rank_correlation(rho) - expected) < 4 / math.sqrt(CLIENTS - 1)


def test_at_one_links_are_sorted():
    assert rank_correlation(1.0) == pytest.approx(1.0)


def test_the_links_are_the_same_ones_in_another_order():
    labels = np.array([5.0, 1.0, 9.0, 3.0, 3.0, 7.0])
    network = intermittent(lognormal())
    plain = network(6, 4, None)
    for rho in (0.0, 0.5, 1.0):
        dealt = by_label(network, rho)(6, 4, None, labels)
        rates = sorted(mean_uplink_rate(link) for link in dealt)
        assert rates == sorted(mean_uplink_rate(link) for link in plain)
        periods = sorted(link.presence.period for link in dealt)
        assert periods == sorted(link.presence.period for link in plain)
    fastest_first = np.argsort([-mean_uplink_rate(link) for link in dealt])
    assert (np.diff(labels[fastest_first]) >= 0).all()


def test_mean_labels_are_those_of_each_client():
    digits = data.load("digits")
    population = data.federate(digits, data.shards(2), num_clients=7, seed=0)
    order, offsets = np.asarray(population.order), np.asarray(population.offsets)
    by_hand = [
        np.mean(digits.train.y[order[offsets[k] : offsets[k + 1]]]) for k in range(7)
    ]
    assert mean_labels(population) == pytest.approx(by_hand)


def test_what_cannot_be_dealt_is_refused(tmp_path, capsys):
    with pytest.raises(ValueError, match=r"rho=1\.5"):
        by_label(constant(), 1.5)
    with pytest.raises(ValueError, match="hold none"):
        by_label(constant(), 1.0)(3, 0, None)
    flags = ["--quick", "--network=by_label(constant(), -1)"]
    with pytest.raises(SystemExit) as ended:
        main(["", f"--workdir={tmp_path / 'run'}", *flags])
    assert ended.value.code == 2
    assert "rho=-1" in capsys.readouterr().err
