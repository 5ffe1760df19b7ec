"""Simulated links and devices of any experiment, from its flags."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
from absl import flags

from fedjax_comp.base import PyTree
from fedjax_comp.data.sources.loading import RAW_DATA_VARIABLE
from fedjax_comp.experiment.controllers import Rule, pilot_update
from fedjax_comp.experiment.errors import UsageError
from fedjax_comp.experiment.expressions import build
from fedjax_comp.hooks import Hook
from fedjax_comp.network.clock import Policy, check_policy
from fedjax_comp.network.codec_cost import fixed_bytes
from fedjax_comp.network.curve import curve_of
from fedjax_comp.network.devices import NOTHING, Cost, Device, training_flops
from fedjax_comp.network.kept_costs import (
    COSTS,
    codecs_of,
    costs_kept,
    read_or_measure,
)
from fedjax_comp.network.links import Link
from fedjax_comp.network.setting import Codec, Setting
from fedjax_comp.network.simulate import simulate
from fedjax_comp.problem import Problem
from fedjax_comp.report import Run, line_figure

IDEAL = Device("ideal", 1e30, 1e30, 0.0)


class Conditions(NamedTuple):
    """What a run is timed on.

    Attributes:
      setting: links, devices, and what the problem's messages cost.
      kept: writes these costs when the run begins.
    """

    setting: Setting
    kept: Hook


def simulation_hooks(values: flags.FlagValues, problem: Problem) -> list[Hook]:
    """The clock that the flags describe; none without a network and devices.

    Raises:
      ValueError: for flags that cannot be meant.
    """
    conditions = build_conditions(values, problem)
    if conditions is None:
        return []
    return [conditions.kept, simulate(conditions.setting, problem)]


def build_conditions(values: flags.FlagValues, problem: Problem) -> Conditions | None:
    """Links, devices and costs of messages; None without links and devices.

    Costs are read from the run directory or measured; nothing is written yet.

    Raises:
      ValueError: for flags that cannot be meant.
    """
    if "network" not in values:
        return None
    setting = build_setting(values, problem.num_clients, problem.params)
    if setting is None:
        return None
    path = Path(values.workdir) / COSTS
    controller = values.controller if "controller" in values else None
    rule: Rule | None = build("controller", controller) if controller else None
    measured = read_or_measure(
        path,
        problem.links,
        problem.params,
        update=None if rule is None else lambda: pilot_update(problem),
    )
    costs = codecs_of(measured)
    up, down = problem.links.get("uplink"), problem.links.get("downlink")
    setting = setting._replace(
        uplink=costs.get("uplink", Codec()),
        downlink=costs.get("downlink", Codec()),
        uplink_bytes=None if up is None else fixed_bytes(up, problem.params),
        downlink_bytes=None if down is None else fixed_bytes(down, problem.params),
    )
    if rule is not None:
        size = sum(x.size for x in jax.tree.leaves(problem.params))
        ladder, codec = curve_of(measured["curve"], size)
        setting = setting._replace(
            uplink=codec, controller=rule.make(ladder), ladder=ladder
        )
    return Conditions(setting, costs_kept(measured))


def build_setting(
    values: flags.FlagValues, num_clients: int, params: PyTree
) -> Setting | None:
    """Links, devices and policy of the flags; None when neither is named.

    Raises:
      ValueError: for flags that cannot be meant.
    """
    policy = _policy(values)
    if policy is None:
        return None
    links, devices = _links_and_devices(values, num_clients)
    train = NOTHING
    if values.devices:
        size = sum(x.size for x in jax.tree.leaves(params))
        each = training_flops(size, 1, flops_per_example=values.training_flops)
        train = Cost(each, 0.0)
    return Setting(links, devices, policy, train, seed=values.seed)


def check_conditions(values: flags.FlagValues) -> None:
    """Builds links and devices that the flags name, for their mistakes.

    Raises:
      ValueError: for flags that cannot be meant.
    """
    if "network" not in values or _policy(values) is None:
        return
    if "num_clients" in values:
        _links_and_devices(values, values.num_clients)


def _policy(values: flags.FlagValues) -> Policy | None:
    """What the server waits for; None where nothing is simulated."""
    if values.training_flops is not None and not values.devices:
        raise UsageError("--training_flops needs --devices that train.")
    goal = values.report_goal if "report_goal" in values else None
    policy = Policy(
        float("inf") if values.deadline_seconds is None else values.deadline_seconds,
        goal,
    )
    if not values.network and not values.devices:
        if policy != Policy():
            raise UsageError(
                "--deadline_seconds and --report_goal need links or devices to time "
                "the clients on, e.g. --network='lognormal()'."
            )
        return None
    try:
        return check_policy(policy)
    except ValueError as error:
        raise UsageError(f"--deadline_seconds, --report_goal: {error}") from None


def _links_and_devices(
    values: flags.FlagValues, num_clients: int
) -> tuple[Sequence[Link], Sequence[Device]]:
    raw_dir = raw_directory(values)
    network = build("network", values.network or "constant(1e9, latency_seconds=0)")
    links = network(num_clients, values.seed, raw_dir)
    if not values.devices:
        return links, [IDEAL] * num_clients
    return links, build("devices", values.devices)(num_clients, values.seed, raw_dir)


def raw_directory(values: flags.FlagValues) -> Path | None:
    """Where raw files are: by the flag, else by the environment, else None."""
    named = values.raw_dir or os.environ.get(RAW_DATA_VARIABLE)
    return Path(named).expanduser() if named else None


def accuracy_against_time(
    runs: Sequence[Run], path: Path, *, log_x: bool = False
) -> Path:
    """Draws test accuracy against simulated seconds, one curve a run."""
    return line_figure(
        runs,
        x="simulated_seconds",
        y="test_accuracy",
        xlabel="Simulated time (s)" + (", logarithmic" if log_x else ""),
        ylabel="Test accuracy",
        path=path,
        log_x=log_x,
    )
