"""Simulated links and devices of any experiment, from its flags."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from absl import flags

from fedjax_comp.base import PyTree
from fedjax_comp.data import FederatedData
from fedjax_comp.data.sources.loading import RAW_DATA_VARIABLE
from fedjax_comp.experiment.controllers import Rule, pilot_update
from fedjax_comp.experiment.errors import UsageError
from fedjax_comp.experiment.expressions import build
from fedjax_comp.hooks import Hook
from fedjax_comp.network.by_label import mean_labels
from fedjax_comp.network.clock import Policy, check_policy
from fedjax_comp.network.codec_cost import fixed_bytes
from fedjax_comp.network.curve import curve_of
from fedjax_comp.network.devices import NOTHING, Cost, Device, training_flops
from fedjax_comp.network.kept_costs import (
    COSTS,
    TRAINING,
    codecs_of,
    costs_kept,
    read_or_measure,
)
from fedjax_comp.network.links import Link
from fedjax_comp.network.setting import Codec, Setting
from fedjax_comp.network.sharing import ServerLink, server_link
from fedjax_comp.network.simulate import simulate
from fedjax_comp.network.training_cost import gradient_flops
from fedjax_comp.problem import Problem
from fedjax_comp.report import Run, line_figure
from fedjax_comp.run_directory import Json

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
    setting = build_setting(values, problem)
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
        training=counted_training(values, problem),
        of=_measured_of(values, problem, curve=rule is not None),
        given=given_costs(values),
    )
    costs = codecs_of(measured)
    up, down = problem.links.get("uplink"), problem.links.get("downlink")
    setting = setting._replace(
        uplink=costs.get("uplink", Codec()),
        downlink=costs.get("downlink", Codec()),
        uplink_bytes=None if up is None else fixed_bytes(up, problem.params),
        downlink_bytes=None if down is None else fixed_bytes(down, problem.params),
        train_example=training_cost(values, problem.params, measured),
    )
    if rule is not None:
        size = sum(x.size for x in jax.tree.leaves(problem.params))
        ladder, codec = curve_of(measured["curve"], size)
        setting = setting._replace(
            uplink=codec, controller=rule.make(ladder), ladder=ladder
        )
    return Conditions(setting, costs_kept(measured))


def counted_training(
    values: flags.FlagValues, problem: Problem
) -> Callable[[], float] | None:
    """Counts the FLOPs of training on one example; None where nobody needs them."""
    task = problem.task
    if not values.devices or values.training_flops is not None or task is None:
        return None
    return lambda: gradient_flops(
        task, problem.params, problem.test, batch_size=values.batch_size or 1
    )


def training_cost(values: flags.FlagValues, params: PyTree, measured: Json) -> Cost:
    """What training on one example costs a client, by the flags and a run's costs.

    Args:
      values: the flags.
      params: the model, by whose size a run goes whose costs have no count.
      measured: the run's costs.
    """
    if not values.devices:
        return NOTHING
    size = sum(x.size for x in jax.tree.leaves(params))
    counted = measured.get(TRAINING)
    known = counted if values.training_flops is None else values.training_flops
    return Cost(training_flops(size, 1, flops_per_example=known), 0.0)


def given_costs(values: flags.FlagValues) -> Path | None:
    """The file of `--costs`.

    Raises:
      UsageError: when it does not exist.
    """
    if "costs" not in values or values.costs is None:
        return None
    path = Path(values.costs)
    if not path.is_file():
        raise UsageError(f"--costs={path}: there is no such file.")
    return path


def model_of(values: flags.FlagValues) -> str:
    """What costs depend on beside the compressor, in the words of the flags."""
    data = next((values[n].value for n in ("dataset", "stream") if n in values), "")
    return f"{values.model} on {data}"


def _measured_of(
    values: flags.FlagValues, problem: Problem, *, curve: bool
) -> dict[str, str]:
    model = model_of(values)
    of = {
        name: f"{values[name].value} of {model}" if name in values else model
        for name in problem.links
    }
    if curve:
        of["curve"] = of["uplink"]
    if counted_training(values, problem) is not None:
        of["training"] = model
    return of


def build_setting(values: flags.FlagValues, problem: Problem) -> Setting | None:
    """Links, devices and policy of the flags, training free; None without them.

    Raises:
      ValueError: for flags that cannot be meant.
    """
    policy = _policy(values)
    if policy is None:
        return None
    data = problem.data
    labels = mean_labels(data) if isinstance(data, FederatedData) else None
    links, devices = _links_and_devices(values, problem.num_clients, labels)
    return Setting(
        links, devices, policy, seed=values.seed, server_link=_server_link(values)
    )


def _server_link(values: flags.FlagValues) -> ServerLink:
    """What passes at the server in all, by the flags.

    Raises:
      UsageError: for a capacity that is not positive.
    """
    try:
        return server_link(
            up_megabits=values.server_up_megabits,
            down_megabits=values.server_down_megabits,
        )
    except ValueError as error:
        raise UsageError(
            f"--server_up_megabits, --server_down_megabits: {error}"
        ) from None


def check_conditions(values: flags.FlagValues) -> None:
    """Builds links and devices that the flags name, for their mistakes.

    Raises:
      ValueError: for flags that cannot be meant.
    """
    if "network" not in values or _policy(values) is None:
        return
    if "num_clients" in values:
        # Labels of nobody: the data is not read yet, and no link is used.
        _links_and_devices(values, values.num_clients, np.zeros(values.num_clients))


def _policy(values: flags.FlagValues) -> Policy | None:
    """What the server waits for; None where nothing is simulated."""
    if values.training_flops is not None and not values.devices:
        raise UsageError("--training_flops needs --devices that train.")
    if given_costs(values) is not None and not (values.network or values.devices):
        raise UsageError("--costs needs links or devices, e.g. --devices='mixed()'.")
    if _server_link(values) != ServerLink() and not (values.network or values.devices):
        raise UsageError(
            "--server_up_megabits and --server_down_megabits need links that share the "
            "server's, e.g. --network='lognormal()'."
        )
    goal = values.report_goal if "report_goal" in values else None
    if goal is not None and "cohort_size" in values and goal > values.cohort_size:
        raise UsageError(
            f"--report_goal={goal} is more than --cohort_size={values.cohort_size} "
            "clients can be."
        )
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
    values: flags.FlagValues, num_clients: int, labels: np.ndarray | None
) -> tuple[Sequence[Link], Sequence[Device]]:
    raw_dir = raw_directory(values)
    network = build("network", values.network or "constant(1e9, latency_seconds=0)")
    links = network(num_clients, values.seed, raw_dir, labels)
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
