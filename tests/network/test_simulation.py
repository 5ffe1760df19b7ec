"""A run's clock: seconds and joules by hand, deadlines, and what a resume must keep."""

import dataclasses
import json
import math

import jax
import numpy as np
import optax
import pytest

from experiments.adaptive.run import compiled_once
from fedjax_comp import data
from fedjax_comp.algorithms.fed_avg import fed_avg
from fedjax_comp.compress import (
    differenced,
    identity,
    scaled_sign,
    stochastic_quantize,
    top_k,
)
from fedjax_comp.compress.budget.ladder import ladder, rung_bits
from fedjax_comp.execution import scanned
from fedjax_comp.metrics import Ledger
from fedjax_comp.models import classification, linear
from fedjax_comp.network.clock import Policy
from fedjax_comp.network.codec_cost import fixed_bytes
from fedjax_comp.network.control import NOT_INVITED, Controller, Ladder
from fedjax_comp.network.devices import NOTHING, Cost, Device
from fedjax_comp.network.links import Link, Presence, constant_channel, packet_sizes
from fedjax_comp.network.setting import Codec, Setting
from fedjax_comp.network.simulate import simulate
from fedjax_comp.network.steering import steered
from fedjax_comp.network.timed_control import hardware_aware, water_filled
from fedjax_comp.run import Problem, Schedule, run
from fedjax_comp.run_directory import open_run
from fedjax_comp.training import evaluation_program, uniform_cohorts

CLIENTS = 4
UPLINK = ladder(scaled_sign(), stochastic_quantize(levels=256))
DEVICE = Device("test", 1e6, 1e6, 5.0, transmit_watts=2.0, receive_watts=1.0)


@pytest.fixture(autouse=True, scope="module")
def compile_once(tmp_path_factory):
    """Runs that differ only in links and policies share their programs."""
    with compiled_once(tmp_path_factory.mktemp("compiled")):
        yield


@pytest.fixture(scope="module")
def population():
    return data.federate(data.load("digits"), data.iid(), num_clients=CLIENTS, seed=0)


def make_problem(population, uplink):
    task = classification(linear()(10), input_shape=(8, 8, 1), scale=1 / 16)
    return Problem(
        algorithm=fed_avg(task, client_optimizer=optax.sgd(0.5), uplink=uplink),
        sample=uniform_cohorts(cohort_size=CLIENTS, epochs=1, batch_size=0),
        data=population,
        params=task.init(jax.random.key(0)),
        num_clients=CLIENTS,
        evaluate=evaluation_program(task, scanned(), batch_size=500),
        test=population.test,
        links={"uplink": uplink, "downlink": identity()},
    )


def links_of(*rates):
    down = constant_channel(1e5, latency_seconds=0.2)
    return [Link(constant_channel(r, latency_seconds=0.1), down) for r in rates]


def bits(size):
    return 8.0 * packet_sizes(size).sum()


def go(path, problem, setting, rounds, *, stop=None):
    directory = open_run(path, "test", {})
    return run(
        directory,
        problem,
        Schedule(stop or rounds, checkpoint_every=1),
        jax.random.key(1),
        show_progress=False,
        hooks=[simulate(setting, problem)],
    )


@pytest.mark.thorough
def test_seconds_and_joules_are_those_of_each_stage(tmp_path, population):
    problem = make_problem(population, identity())
    size = 650 * 4
    sizes = np.diff(np.asarray(population.offsets))
    setting = Setting(
        links_of(1e5, 5e4, 2e4, 1e4),
        [DEVICE] * CLIENTS,
        train_example=Cost(100.0, 0.0),
        uplink=Codec((Cost(2e5, 0.0),), (NOTHING,)),
        uplink_bytes=size,
        downlink_bytes=size,
    )
    _, _, summary = go(tmp_path / "all", problem, setting, 2)
    down, up = bits(size) / 1e5 + 0.2, bits(size) / 1e4 + 0.1
    slowest = down + sizes[3] * 1e-4 + 0.2 + up
    # Two rounds of the slowest client; the others' uplinks are at least twice as fast.
    assert summary["simulated_seconds"] == pytest.approx(2 * slowest)
    sending = sum(bits(size) / rate + 0.1 for rate in (1e5, 5e4, 2e4, 1e4))
    computing = 5.0 * (sizes.sum() * 1e-4 + 4 * 0.2)
    assert summary["joules"] == pytest.approx(2 * (4 * down + computing + 2 * sending))
    lines = (tmp_path / "all" / "metrics.jsonl").read_text().splitlines()
    seconds = [json.loads(line)["simulated_seconds"] for line in lines]
    assert seconds == pytest.approx([0.0, slowest, 2 * slowest])

    # With a deadline the last client is late; the round lasts until the deadline.
    limit = down + sizes[2] * 1e-4 + 0.2 + bits(size) / 2e4 + 0.3
    late = setting._replace(policy=Policy(deadline_seconds=limit))
    ledger, _, summary = go(tmp_path / "late", problem, late, 2)
    assert summary["simulated_seconds"] == pytest.approx(2 * limit)
    assert summary["uplink_messages"] == 2 * 3
    assert ledger.observed["late_clients"] == 2
    assert ledger.observed["late_bytes"] == 2 * size
    # It sends until the round is closed, and no longer.
    begun = down + sizes[3] * 1e-4 + 0.2
    sending = sum(bits(size) / rate + 0.1 for rate in (1e5, 5e4, 2e4))
    energy = 4 * down + computing + 2 * (sending + limit - begun)
    assert 0 < limit - begun < up
    assert summary["joules"] == pytest.approx(2 * energy)


@pytest.mark.thorough
def test_a_controller_resumes_where_it_was(tmp_path, population):
    uplink = steered(UPLINK)
    problem = make_problem(population, uplink)
    sizes = rung_bits((scaled_sign(), stochastic_quantize(levels=256)), problem.params)
    measured = Ladder(np.array(sizes, float) + 1, np.array([0.4, 1e-4]), 650)
    setting = Setting(
        links_of(1e5, 1e5, 1e5, 2e3),
        [DEVICE] * CLIENTS,
        uplink=Codec((NOTHING,) * 2, (NOTHING,) * 2),
        downlink_bytes=650 * 4,
        controller=water_filled(measured),
        ladder=measured,
    )
    whole, _, summary = go(tmp_path / "whole", problem, setting, 3)
    go(tmp_path / "cut", problem, setting, 3, stop=1)
    again, _, resumed = go(tmp_path / "cut", problem, setting, 3)
    for name in ("simulated_seconds", "joules", "uplink_bytes", "params_sha256"):
        assert resumed[name] == summary[name]
    assert again.conditions == whole.conditions
    # Both rungs were used, and every byte is that of a rung.
    short, long = (math.ceil((size + 1) / 8) for size in sizes)
    used = {
        (a, b)
        for a in range(13)
        for b in range(13)
        if a * short + b * long == summary["uplink_bytes"]
    }
    assert used
    # After the first round the slow client is not waited for as long as at first.
    rows = [row["simulated_seconds"] for row in whole.rows]
    assert rows[-1] - rows[-2] < rows[1] - rows[0]


@pytest.mark.parametrize(("left", "heard"), [(2, 4 + 2 + 2), (4, 2)])
def test_a_controller_judges_by_those_who_are_there(tmp_path, population, left, heard):
    """Two fast clients have more than half of the examples, and go after a round.

    Where the slow ones go too, it is before they have sent anything.
    """
    uplink = steered(UPLINK)
    problem = make_problem(population, uplink)
    sizes = rung_bits((scaled_sign(), stochastic_quantize(levels=256)), problem.params)
    measured = Ladder(np.array(sizes, float) + 1, np.array([0.4, 1e-4]), 650)
    gone = Presence(np.array([0.0, 1.0]), 1e6)
    links = links_of(2e3, 2e3, 1e5, 1e5)
    links[-left:] = [dataclasses.replace(x, presence=gone) for x in links[-left:]]
    setting = Setting(
        links,
        [DEVICE] * CLIENTS,
        uplink=Codec((NOTHING,) * 2, (NOTHING,) * 2),
        downlink_bytes=650 * 4,
        controller=hardware_aware(measured),
        ladder=measured,
    )
    _, _, summary = go(tmp_path / "run", problem, setting, 3)
    assert summary["uplink_messages"] == heard


@pytest.mark.parametrize("late", [True, False])
def test_a_broadcast_that_all_must_hear_is_paid_for_once(tmp_path, population, late):
    """Also by one of the cohort that is late, or that a controller leaves out."""
    uplink, downlink = steered(identity()), differenced(top_k(k=9))
    task = classification(linear()(10), input_shape=(8, 8, 1), scale=1 / 16)
    problem = make_problem(population, uplink)._replace(
        algorithm=fed_avg(
            task,
            client_optimizer=optax.sgd(0.5),
            uplink=uplink,
            downlink=downlink,
            population=CLIENTS,
        ),
        links={"uplink": uplink, "downlink": downlink},
    )
    message = Ladder(np.array([650 * 32.0]), np.zeros(1), 650)
    budgets = np.array([*message.bits, NOT_INVITED])[[0, 0, 0, 0 if late else 1]]
    heard = fixed_bytes(downlink, problem.params)
    ledger, _, summary = go(
        tmp_path / "run",
        problem,
        Setting(
            links_of(1e3 if late else 1e5, 1e5, 1e5, 1e5),
            [dataclasses.replace(DEVICE, transmit_watts=0.0)] * CLIENTS,
            Policy(deadline_seconds=2.0),
            downlink_bytes=heard,
            controller=Controller({}, lambda state, *_: (state, budgets)),
            ladder=message,
        ),
        1,
    )
    assert summary["uplink_messages"] == 3
    assert summary["downlink_messages"] == CLIENTS
    assert summary["downlink_bytes"] == CLIENTS * heard
    assert ledger.observed.get("late_bytes", 0) == 0
    assert ledger.observed["late_clients"] == late
    listening = bits(heard) / 1e5 + 0.2
    assert summary["joules"] == pytest.approx(CLIENTS * listening)


def test_who_is_away_hears_no_broadcast_that_everyone_must_hear(population):
    away = Presence(np.array([1.0, 3.0]), 4.0)
    there = links_of(*[1e5] * CLIENTS)
    links = [there[0], dataclasses.replace(there[1], presence=away), *there[2:]]
    task = classification(linear()(10), input_shape=(8, 8, 1), scale=1 / 16)
    memory = differenced(top_k(k=9))

    def clock(links, downlink, **options):
        made = fed_avg(
            task, client_optimizer=optax.sgd(0.5), downlink=downlink, **options
        )
        problem = make_problem(population, identity())
        found = {"uplink": identity(), "downlink": downlink}
        problem = problem._replace(algorithm=made, links=found)
        return simulate(Setting(links, [DEVICE] * CLIENTS), problem)

    with pytest.raises(
        ValueError, match=r"with intermittent\(\) links: .*unicast=True"
    ):
        clock(links, memory, population=CLIENTS)
    assert clock(there, memory, population=CLIENTS)
    assert clock(links, memory, unicast=True)
    assert clock(links, identity())


def test_a_controller_needs_a_ladder():
    with pytest.raises(ValueError, match="ladder"):
        simulate(Setting([], [], controller=water_filled(_LADDER)), _PROBLEM)


_LADDER = Ladder(np.ones(2), np.ones(2), 1)
_PROBLEM = Problem(
    algorithm=fed_avg(
        classification(linear()(2), input_shape=(1,)), client_optimizer=optax.sgd(1.0)
    ),
    sample=uniform_cohorts(cohort_size=1, epochs=1, batch_size=1),
    data=None,
    params=None,
    num_clients=1,
    evaluate=lambda params, test: None,
    test=None,
    links={},
)


def test_a_ledger_without_conditions_has_no_seconds():
    row = Ledger().add_row(test_accuracy=0.5, test_loss=1.0)
    assert "simulated_seconds" not in row
