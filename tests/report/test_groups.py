"""A group is a configuration; its label is what tells it from the others."""

from pathlib import Path

import pytest

from fedjax_comp.report.found import FoundRun
from fedjax_comp.report.groups import group_runs, shortened


def run(path, *, experiment="fed_avg", below="runs", commit="c0", state="", **flags):
    seed = flags.get("seed", 0)
    rows = [{"round": 1, "test_loss": flags.pop("loss", seed), "seconds": hash(path)}]
    return FoundRun(Path(path), below, experiment, flags, seed, commit, rows, state)


def labels(*runs):
    return [group.label for group in group_runs(runs).groups]


def test_seeds_and_bookkeeping_make_no_group():
    grouping = group_runs(
        [
            run("a", uplink="identity()", seed=0, workdir="a", progress=True),
            run("b", uplink="identity()", seed=1, workdir="b", execution="mapped()"),
        ]
    )
    (group,) = grouping.groups
    assert [one.seed for one in group.runs] == [0, 1]
    assert group.label == "fed_avg"
    assert grouping.shared == {"experiment": "fed_avg", "uplink": "identity()"}


def test_a_label_has_only_what_differs():
    runs = [
        run("a", uplink="identity()", model="cnn()", num_clients=10),
        run("b", uplink="identity()", model="cnn()", num_clients=100),
        run("c", uplink="qsgd(levels=4)", model="cnn()", num_clients=10),
    ]
    assert labels(*runs) == [
        "uplink=identity, num_clients=10",
        "uplink=identity, num_clients=100",
        "uplink=qsgd(levels=4), num_clients=10",
    ]
    assert labels(*runs[:2]) == ["10", "100"]
    assert labels(runs[0], runs[2]) == ["identity", "qsgd(levels=4)"]


def test_what_follows_from_the_label_is_not_in_it_but_in_the_settings():
    grouping = group_runs(
        [
            run("a", uplink="identity()", downlink="identity()", rate=1),
            run("b", uplink="sign_sgd()", downlink="qsgd(4)", rate=2),
        ]
    )
    assert [group.label for group in grouping.groups] == ["identity", "sign_sgd"]
    assert grouping.named_by == ["uplink"]
    assert grouping.following == ["downlink", "rate"]
    assert grouping.groups[1].settings == {
        "uplink": "sign_sgd()",
        "downlink": "qsgd(4)",
        "rate": 2,
    }


def test_flags_of_one_experiment_alone_follow_from_it():
    runs = [
        run("a", experiment="fed_avg", num_clients=10, algorithm="fed_avg()"),
        run("b", experiment="split_learning", num_clients=10, method="vanilla()"),
    ]
    assert labels(*runs) == ["fed_avg", "split_learning"]


def test_equal_runs_count_once_and_others_are_told_apart():
    first = run("runs/a", seed=0)
    grouping = group_runs([first, run("again/a", seed=0)])
    assert len(grouping.groups) == 1
    assert [one.path for one in grouping.groups[0].repeated] == [Path("again/a")]
    changed = run("new/a", seed=0, loss=9, below="new", commit="c1")
    assert labels(first, changed) == ["c0", "c1"]
    # Of one commit, the directory they were found below is what differs.
    assert labels(first, changed._replace(commit="c0")) == ["runs", "new"]
    same = changed._replace(commit="c0", below="runs")
    assert labels(first, same) == ["runs/a", "new/a"]


def test_labels_are_shortened_but_no_two_alike():
    long = "chain(" + "top_k(0.01), " * 9
    ends = [f"{long}qsgd(4), {'x' * 40})", f"{long}qsgd(8), {'x' * 40})"]
    first, second = labels(*(run(end, uplink=end) for end in ends))
    assert first != second
    assert len(shortened(ends[0])) == 48
    assert labels(run("a", uplink=None), run("b", uplink="identity()")) == [
        "none",
        "identity",
    ]


@pytest.mark.parametrize(
    "value, text",
    [(True, "yes"), ("", "none"), ([1, 2], "[1, 2]"), ("f(g(), 1)", "f(g, 1)")],
)
def test_values_are_short(value, text):
    assert shortened(value) == text
