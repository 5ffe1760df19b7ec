"""Training on updates that come late, from flags: FedBuff, and updates carried over.

Both follow a timetable (`fedjax_comp.network.timetable`) that is computed before the
run from links, devices and the sizes of messages.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from fedjax_comp.data import FederatedData
from fedjax_comp.experiment.conditions import build_conditions, simulation_hooks
from fedjax_comp.experiment.errors import UsageError
from fedjax_comp.hooks import Hook
from fedjax_comp.keys import make_key
from fedjax_comp.network.setting import Setting
from fedjax_comp.network.sharing import ServerLink
from fedjax_comp.network.timed_cohorts import timed, timetable_clock
from fedjax_comp.network.timetable import Timetable, buffered, carried, trips
from fedjax_comp.problem import Problem
from fedjax_comp.training import init_state, round_program
from fedjax_comp.wire.traffic import totals

MAX_STALENESS, EXPONENT = 10, 0.5
_SEED = 0x7A
"""Beside `--seed`, of who is told to begin."""


def define_lateness(values: flags.FlagValues) -> None:
    """Defines the flags, all None, so that older directories can be resumed."""
    flags.DEFINE_integer(
        "concurrency",
        None,
        "FedBuff: clients at work at any moment; the server steps when --cohort_size "
        "of them have arrived.",
        flag_values=values,
        lower_bound=1,
    )
    flags.DEFINE_enum(
        "late_updates",
        None,
        ["drop", "carry"],
        "Updates behind --deadline_seconds or --report_goal: drop them (the default), "
        "or count them in the round in which they arrive.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "max_staleness",
        None,
        f"Server steps after which a late update is given up ({MAX_STALENESS}).",
        flag_values=values,
        lower_bound=0,
    )
    flags.DEFINE_float(
        "staleness_exponent",
        None,
        f"a of the weight (1 + staleness)^-a of a late update ({EXPONENT}).",
        flag_values=values,
        lower_bound=0.0,
    )


def counts_late(values: flags.FlagValues) -> bool:
    """Whether the flags want late updates to be counted.

    Raises:
      UsageError: for flags that do not go together.
    """
    carry = values.late_updates == "carry"
    bounded = values.deadline_seconds is not None or values.report_goal is not None
    if values.concurrency is not None and (carry or bounded):
        raise UsageError(
            "--concurrency: FedBuff has no rounds, so leave --late_updates, "
            "--deadline_seconds and --report_goal out."
        )
    if carry and not bounded:
        raise UsageError(
            "--late_updates=carry: nothing is late without --deadline_seconds or "
            "--report_goal."
        )
    late = carry or values.concurrency is not None
    if late and not (values.network or values.devices):
        name = "late_updates" if carry else "concurrency"
        raise UsageError(
            f"--{name} needs links or devices to time the clients on, e.g. "
            "--network='lognormal()'."
        )
    for name in ("max_staleness", "staleness_exponent"):
        if values[name].value is not None and not late:
            raise UsageError(f"--{name} needs --concurrency or --late_updates=carry.")
    return late


class Staleness(NamedTuple):
    """How stale updates are taken; the arguments of `fed_buff` of these names."""

    max_staleness: int
    exponent: float


def staleness_of(values: flags.FlagValues) -> Staleness:
    """What the flags say of stale updates."""
    most, exponent = values.max_staleness, values.staleness_exponent
    return Staleness(
        MAX_STALENESS if most is None else most,
        EXPONENT if exponent is None else exponent,
    )


def put_on_clock(
    values: flags.FlagValues, problem: Problem
) -> tuple[Problem, list[Hook]]:
    """A problem and the clock it runs by, if any.

    Args:
      values: the flags.
      problem: with late updates one on `Timed` data, whose data are the population.

    Returns:
      The problem, its data timed where it follows a timetable, and the hooks of the
      clock.

    Raises:
      ValueError: for flags that cannot be meant.
    """
    if "concurrency" not in values or not counts_late(values):
        return problem, simulation_hooks(values, problem)
    conditions = build_conditions(values, problem)
    if conditions is None:
        raise UsageError("--network, --devices: a timetable needs one of them.")
    if conditions.setting.controller is not None:
        raise UsageError(
            f"--controller={values.controller}: late updates follow a timetable made "
            "before the first round, when no budget is set yet; leave one of them out."
        )
    if conditions.setting.server_link != ServerLink():
        raise UsageError(
            "--server_up_megabits, --server_down_megabits: in a timetable of late "
            "updates every client is timed by itself; leave one of the two out."
        )
    table = make_timetable(values, problem, conditions.setting)
    hooks = [conditions.kept, timetable_clock(table)]
    return problem._replace(data=timed(problem.data, table)), hooks


def make_timetable(
    values: flags.FlagValues, problem: Problem, setting: Setting
) -> Timetable:
    """Who arrives when, by the flags."""
    population: FederatedData = problem.data
    up, down = setting.uplink_bytes, setting.downlink_bytes
    if up is None or down is None:
        pilot_up, pilot_down = pilot_bytes(problem, values.cohort_size)
        up, down = up or pilot_up, down or pilot_down
    sizes = np.diff(np.asarray(population.offsets)) * values.local_epochs
    trip_of = trips(setting, sizes.tolist(), upload_bytes=up, download_bytes=down)
    random = np.random.default_rng([values.seed, _SEED])
    most = staleness_of(values).max_staleness
    if values.concurrency is None:
        return carried(
            trip_of,
            num_clients=values.num_clients,
            cohort_size=values.cohort_size,
            num_rounds=values.num_rounds,
            policy=setting.policy,
            max_staleness=most,
            random=random,
        )
    if values.concurrency + values.cohort_size - 1 > values.num_clients:
        raise UsageError(
            f"--concurrency={values.concurrency} and a buffer of "
            f"--cohort_size={values.cohort_size} need more than "
            f"--num_clients={values.num_clients}: a client in the buffer is not at "
            "work."
        )
    return buffered(
        trip_of,
        num_clients=values.num_clients,
        concurrency=values.concurrency,
        buffer_size=values.cohort_size,
        num_steps=values.num_rounds,
        max_staleness=most,
        random=random,
    )


def pilot_bytes(problem: Problem, cohort_size: int) -> tuple[int, int]:
    """The mean bytes of one message up and down, in a first round without lateness.

    For messages whose size depends on values: the timetable must know it before.
    """
    row = np.arange(cohort_size)[None]
    nothing = np.zeros(1)
    first = Timetable(row, 0 * row, row >= 0, nothing, nothing, nothing)
    state = init_state(
        make_key(0), problem.algorithm, problem.params, problem.num_clients
    )
    step = jax.jit(round_program(problem.algorithm, problem.sample, max_rounds=1))
    _, dispatch = step(state, timed(problem.data, first), jnp.int32(1))
    sent = totals(dispatch.infos.traffic)
    return (
        math.ceil(sent.uplink_bytes / max(1, sent.uplink_messages)),
        math.ceil(sent.downlink_bytes / max(1, sent.downlink_messages)),
    )
