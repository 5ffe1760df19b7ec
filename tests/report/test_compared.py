"""Ratios and differences are of one seed, then averaged; words say what they are."""

import numpy as np
import pytest

from fedjax_comp.report.compared import (
    change_in_words,
    compare,
    in_words,
    quality_of,
)
from fedjax_comp.report.found import find_runs
from fedjax_comp.report.groups import group_runs
from tests.report.found_runs import row, write_run

ACCURACIES = {"dense": [0.90, 0.80, 0.85], "sign": [0.88, 0.81, 0.80]}
BYTES = {"dense": [1000, 1200, 800], "sign": [10, 15, 16]}


def found(tmp_path, names=ACCURACIES, seeds=range(3)):
    for name in names:
        for seed in seeds:
            accuracy, sent = ACCURACIES[name][seed], BYTES[name][seed]
            rows = [row(1, 0.5, sent // 2), row(2, accuracy, sent - 1, 1)]
            write_run(tmp_path / f"{name}-{seed}", rows, seed=seed, uplink=f"{name}()")
    return group_runs(find_runs([tmp_path]).runs).groups


def test_means_and_ratios_are_those_of_numpy_seed_by_seed(tmp_path):
    groups = found(tmp_path)
    dense, sign = compare(groups, groups[0], quality="test_accuracy")
    accuracy, sent = np.array(ACCURACIES["sign"]), np.array(BYTES["sign"])
    assert sign.means["test_accuracy"] == pytest.approx(accuracy.mean(), rel=1e-5)
    assert sign.means["test_accuracy_sd"] == pytest.approx(
        accuracy.std(ddof=1), rel=1e-5
    )
    assert sign.means["total_bytes"] == pytest.approx(sent.mean(), rel=1e-5)
    assert sign.fewer_bytes == pytest.approx((np.array(BYTES["dense"]) / sent).mean())
    change = 100 * (accuracy - np.array(ACCURACIES["dense"])).mean()
    assert sign.change == pytest.approx(change)
    assert (dense.fewer_bytes, dense.change) == (1.0, 0.0)


def test_bytes_to_a_target_that_not_all_reach(tmp_path):
    groups = found(tmp_path)
    of = {"quality": "test_accuracy"}
    _, sign = compare(groups, groups[0], target_accuracy=0.80, **of)
    assert sign.means["total_bytes_to_target"] == pytest.approx(41 / 3, rel=1e-5)
    assert sign.reached == 3
    _, sign = compare(groups, groups[0], target_accuracy=0.81, **of)
    assert (sign.reached, sign.fewer_to_target) == (2, None)
    assert sign.means["total_bytes_to_target"] is None
    _, sign = compare(groups, groups[0], target_accuracy=0.5, **of)
    ratio = np.mean([500 / 5, 600 / 7, 400 / 8])
    assert sign.fewer_to_target == pytest.approx(ratio)


def test_without_a_common_seed_the_ratio_is_of_the_means(tmp_path):
    found(tmp_path, ["dense"], [0, 1])
    groups = found(tmp_path, ["sign"], [2])
    _, sign = compare(groups, groups[0], quality="test_accuracy")
    assert sign.fewer_bytes == pytest.approx(1100 / 16)


def test_without_accuracies_losses_are_compared(tmp_path):
    rows = [{**row(1, 0.5, 10), "test_accuracy": None}]
    write_run(tmp_path / "a", rows)
    runs = find_runs([tmp_path]).runs
    assert quality_of(runs) == "test_loss"
    groups = group_runs(runs).groups
    (only,) = compare(groups, groups[0], quality="test_loss")
    assert only.change == 0


def test_words():
    assert in_words(250.0) == "250× fewer bytes"
    assert in_words(1 / 1.02) == "1.02× more bytes"
    assert change_in_words(-0.04, "test_accuracy") == "±0.0 points"
    assert change_in_words(1.26, "test_accuracy") == "+1.3 points"
    assert change_in_words(None, "test_accuracy") == ""
