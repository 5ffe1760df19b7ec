"""Bad clients: what they send, what the command leaves behind, and mistakes."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.robust.attacks import FACTORIES, flip_labels, over_bad_link
from experiments.robust.flags import ATTACKS, RULES, parse_attacks, parse_rules
from experiments.robust.outcome import summarise
from experiments.robust.rounds import everyone
from experiments.robust.run import main
from fedjax_comp import data
from fedjax_comp.base import make_context
from fedjax_comp.compress import identity
from fedjax_comp.experiment.algorithms import AGGREGATORS
from fedjax_comp.keys import make_key
from tests.experiments.small import mistake, read_runs, without_last_row

SMALL = (
    "--quick",
    "--execution=scanned()",
    "--noprogress",
    "--model=linear()",
    "--num_rounds=25",
)


def test_the_tables_are_valid_and_complete():
    rules, attacks = parse_rules(RULES, 20), parse_attacks(ATTACKS)
    assert len(attacks) == len(FACTORIES) - 1  # all but nothing()
    used = {text.partition(": ")[2].partition("(")[0] for text in RULES}
    assert used == {"mean", *AGGREGATORS}
    assert len(rules) == len(RULES)


def test_only_the_first_clients_lie_and_in_a_new_way_every_round():
    lies = [one.attack.lie for one in parse_attacks(ATTACKS)]
    update = {"w": jnp.arange(1.0, 4.0)}

    def sent(which, rank, round_key=0):
        link = over_bad_link(identity(), lies, jnp.int32(which), jnp.int32(2))
        context = make_context(make_key(round_key), rank)
        payload, _ = link.encode(context, update, ())
        return np.asarray(link.decode(context, payload, ())[0]["w"])

    true = np.arange(1.0, 4.0)
    for which in range(len(lies)):
        np.testing.assert_array_equal(sent(which, 2), true)
    np.testing.assert_array_equal(sent(0, 1), -4 * true)
    np.testing.assert_array_equal(sent(2, 1), true)  # its labels lie
    assert np.isnan(sent(3, 0)).all()
    np.testing.assert_array_equal(sent(4, 0), np.full(3, 1e38, np.float32))
    drawn = [sent(1, 0), sent(1, 1), sent(1, 0, round_key=1), true]
    assert len({tuple(one) for one in drawn}) == 4
    many = parse_attacks(["g: gaussian(2.0)"])[0].attack.lie(
        make_key(0), jnp.zeros(10_000)
    )
    # The standard deviation of 10,000 draws is within 5 standard errors.
    assert abs(float(many.std()) - 2.0) < 5 * 2.0 / np.sqrt(2 * 10_000)


@pytest.mark.thorough
def test_labels_of_the_first_clients_are_flipped():
    population = data.federate(data.load("digits"), data.iid(), num_clients=5, seed=0)
    flipped = flip_labels(population, 2)
    cohort = everyone(epochs=1, batch_size=0)(make_key(0), jnp.int32(0), flipped)
    np.testing.assert_array_equal(cohort.clients.client_id, np.arange(5))
    for rows, mask, bad in zip(
        cohort.clients.rows, cohort.clients.mask, [1, 1, 0, 0, 0], strict=True
    ):
        own = np.asarray(rows[mask])
        before = np.asarray(population.examples.y)[own]
        after = np.asarray(flipped.examples.y)[own]
        np.testing.assert_array_equal(after, 9 - before if bad else before)


def test_losses_are_against_oneself_without_an_attack():
    def taken(attack, bad, accuracy, aggregator="median", trial=0):
        return {
            "aggregator": aggregator,
            "attack": attack,
            "bad_clients": bad,
            "trial": trial,
            "test_accuracy": accuracy,
            "dropped_updates": 2 * trial,
        }

    rows = summarise(
        [
            taken("none", 0, 0.9),
            taken("none", 0, 0.8, trial=1),
            taken("huge", 2, 0.65),
            taken("huge", 2, 0.5, "mean"),
        ]
    )
    told = {(one["aggregator"], one["attack"]): one for one in rows}
    assert told["median", "none"]["test_accuracy"] == 0.85
    assert told["median", "none"]["dropped_updates"] == 1
    assert told["median", "huge"]["accuracy_lost"] == 0.2
    assert told["mean", "huge"]["accuracy_lost"] is None


@pytest.mark.thorough
def test_quick_run_leaves_everything_behind(tmp_path, capsys):
    flags = [f"--workdir={tmp_path}", *SMALL]
    main(["", *flags])
    summary = json.loads((tmp_path / "summary.json").read_text())
    runs = read_runs(tmp_path)
    assert len(runs) == 9
    assert all(one["holds"] for one in summary["claims"])
    assert runs["median, 4 bad, sign-flip"]["test_accuracy"] > 0.6
    assert runs["mean, 4 bad, sign-flip"]["test_accuracy"] < 0.5
    # All that good clients learn from a model of 1e37 is not finite.
    assert runs["mean, 4 bad, 1e38"]["dropped_updates"] == 24 * 20
    assert runs["krum, 4 bad, 1e38"]["dropped_updates"] == 0
    assert (tmp_path / "report.html").read_text().count("data:image/png") == 2
    capsys.readouterr()

    main(["", *flags])
    assert "nothing was changed" in capsys.readouterr().out
    before = without_last_row(tmp_path)
    main(["", *flags])
    assert (tmp_path / "metrics.jsonl").read_text().startswith(before)
    again = json.loads((tmp_path / "summary.json").read_text())
    assert again["runs"] == summary["runs"]


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--aggregator=a: medain()", "did you mean 'median'"),
        ("--aggregator=median()", "NAME: AGGREGATOR"),
        ("--aggregator=a: krum(9)", "at least 21 clients"),
        ("--aggregator=a: trimmed_mean(0.5)", "fraction=0.5"),
        ("--attack=a: sign_flip(0.0)", "scale=0.0"),
        ("--attack=none: nothing()", "no attack at all"),
        ("--bad_clients=21", "--bad_clients=21 is more than --num_clients=20"),
        ("--bad_clients=0", "bad_clients"),
        ("--partition=shrads(2)", "did you mean 'shards'"),
        ("--model=top_k(1)", "unknown name"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(tmp_path, capsys, flag, expected):
    flags = [f"--workdir={tmp_path / 'run'}", *SMALL, flag]
    assert expected in mistake(main, capsys, flags)
    assert not list(tmp_path.iterdir())
