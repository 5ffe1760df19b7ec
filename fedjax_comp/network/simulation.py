"""A run on simulated links and devices: each round's time, energy and orders.

The clock runs on the host, between the dispatches of single rounds. Before a round it
computes which clients will be late and, with a controller, how much each may send, from
the cohort, the links at that moment and the expected sizes of messages. Both are
written into the state (`fedjax_comp.algorithms.wrappers.admit`,
`fedjax_comp.network.steering`). After the round, its seconds and joules are computed
from the bytes that were really sent.

Expected sizes are exact where sizes are fixed. Where they depend on values, the mean of
the round before is expected. A client may then be admitted and arrive a little after
the deadline: its message counts, and the round is longer by that. A late client spends
energy until the round is closed, and the round lasts until the deadline. The ledger's
downlink holds only messages that count. What a late client was sent is in
`observed["late_bytes"]` instead, unless it was a broadcast that all must hear. What it
had sent of its own message by then is in neither.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from fedjax_comp.algorithms.wrappers import Present, admit
from fedjax_comp.base import PyTree, RoundInfo
from fedjax_comp.invited import Invited
from fedjax_comp.metrics import Ledger
from fedjax_comp.network.clock import IDLE_SECONDS, Visit, close_round, goes_at, spent
from fedjax_comp.network.control import NOT_INVITED, rung_within
from fedjax_comp.network.devices import roofline_seconds
from fedjax_comp.network.estimates import (
    conditions_of,
    expected_bytes,
    forget,
    learn,
    round_of,
    seconds_of,
    statistics_of,
    update,
    visits_of,
    work_of,
)
from fedjax_comp.network.links import arrival, is_present
from fedjax_comp.network.setting import Setting
from fedjax_comp.network.steering import heard_energies, steer
from fedjax_comp.training import TrainState
from fedjax_comp.wire.traffic import bytes_by_client

WITHIN = "messages_within_"
"""Begins the names of what is observed of a controller's budgets: messages within each
number of bits, as `messages_within_4096_bits`."""

CohortOf = Callable[[TrainState], Invited]
"""Who is in the round that comes next; NumPy arrays."""


class _Plan(NamedTuple):
    """One round as it was expected before it ran.

    Attributes:
      start: seconds, the server's encoding included.
      ids: int `[C]`.
      examples: counting epochs, `[C]`.
      rungs: of the uplink's codec, int `[C]`.
      sizes: bytes of each message as expected, `[C]`; None for no message.
      visits: as expected; None for a client that cannot be reached.
      allowed: bool `[C]`.
      late: bool `[C]`, allowed but for the time it takes.
      silent: bool `[C]`, of those late by a controller's order.
      fresh_rates: bits a second that a client expects of its uplink, `[C]`.
      end: the earliest moment at which the round may end, and when if all are late.
      weights: examples of each client, `[C]`.
      before: the parameters before the round, for the energy of the update.
    """

    start: float
    ids: np.ndarray
    examples: np.ndarray
    rungs: np.ndarray
    sizes: list[int | None]
    visits: list[Visit | None]
    allowed: np.ndarray
    late: np.ndarray
    silent: np.ndarray
    fresh_rates: np.ndarray
    end: float
    weights: np.ndarray
    before: list[np.ndarray]


class Simulation:
    """The clock of one run; `fedjax_comp.network.simulate` makes a hook of it.

    All that it has to remember is in the ledger, and so in every checkpoint.

    Args:
      setting: what the run is simulated on.
      cohort_of: the clients of the next round, compiled.
      params_of: `(server_state) -> params`.

    Raises:
      ValueError: when there is a controller and no ladder.
    """

    def __init__(
        self,
        setting: Setting,
        cohort_of: CohortOf,
        params_of: Callable[[PyTree], PyTree],
    ) -> None:
        if setting.controller is not None and setting.ladder is None:
            raise ValueError("Expected a ladder with a controller.")
        self._setting, self._cohort_of = setting, cohort_of
        self._params_of = params_of
        self._plan: _Plan | None = None

    def begin(self, ledger: Ledger) -> None:
        """Starts the clock of a run that is not resumed."""
        if ledger.simulated_seconds is not None:
            return
        ledger.simulated_seconds, ledger.joules = 0.0, 0.0
        unknown = [0.0] * len(self._setting.links)
        ledger.conditions = {
            "simulated_rounds": 0,
            "uplink_rates": list(unknown),
            "shares": list(unknown),
            "ready": list(unknown),
            "heard_errors": list(unknown),
            "update_energy": 0.0,
            "update_weight": 1.0,
            "train_loss": None,
        }
        if self._setting.controller is not None:
            ledger.conditions["controller"] = dict(self._setting.controller.state)

    def before_round(self, state: TrainState, ledger: Ledger) -> TrainState:
        """Plans the next round and writes its orders into the state."""
        setting = self._setting
        clients = self._cohort_of(state)
        start = ledger.simulated_seconds or 0.0
        start += roofline_seconds(setting.downlink.encode[0], setting.server)
        ids, examples = np.asarray(clients.client_id), np.asarray(clients.examples)
        active = np.asarray(clients.active)
        before = _arrays(self._params_of(state.server)) if setting.controller else []
        here = np.array([is_present(setting.links[k].presence, start) for k in ids])
        here &= active
        layer_sizes = np.array([x.size for x in before])
        rungs, sizes, budgets, fresh = self._steer(
            state, ledger, clients, here, start, layer_sizes
        )
        silent, until = np.zeros(ids.size, bool), start
        if budgets is not None:
            totals = budgets if budgets.ndim == 1 else budgets.sum(axis=1)
            here &= totals != NOT_INVITED
            silent = here & np.isnan(totals)
            budgets = np.nan_to_num(budgets)
            if silent.any():
                until = start + seconds_of(ledger)
        down = expected_bytes(setting, ledger, "downlink_bytes")
        there = np.flatnonzero(here)
        works = [work_of(setting, examples[i], rungs[i], down, sizes[i]) for i in there]
        visits: list[Visit | None] = [None] * ids.size
        for i, one in zip(
            there, visits_of(setting, ledger, ids[there], start, works), strict=True
        ):
            visits[i] = one
        arrivals = np.array([v.arrived if v else math.inf for v in visits])
        arrivals = np.where(silent, math.inf, arrivals)
        left = [goes_at(setting.links[k], v) for k, v in zip(ids, visits, strict=True)]
        gone = np.where(silent, -math.inf, left)
        closed = close_round(start, arrivals, setting.policy, gone=gone)
        in_time = closed.in_time
        if budgets is None and sizes[0] is None:
            # Nothing is known of the first messages: they show how long they are.
            in_time = here
        allowed, late = in_time & here, here & ~in_time
        end = closed.end if (late & ~silent).any() or not allowed.any() else start
        end = max(end, until)
        if not allowed.any() and not math.isfinite(setting.policy.deadline_seconds):
            end = max(end, start + IDLE_SECONDS)
        self._plan = _Plan(
            start,
            ids,
            examples,
            rungs,
            sizes,
            visits,
            allowed,
            late,
            silent,
            fresh,
            end,
            np.asarray(clients.num_examples, np.float64),
            before,
        )
        mask = np.ones(len(setting.links), bool)
        mask[ids] = allowed
        admitted: Present = admit(state.clients, mask)
        if budgets is not None:
            everyone = np.full((mask.size, *budgets.shape[1:]), np.inf, np.float32)
            everyone[ids] = budgets
            admitted = steer(admitted, everyone)
        return state._replace(clients=admitted)

    def after_round(self, state: TrainState, infos: RoundInfo, ledger: Ledger) -> None:
        """Adds the round that `before_round` planned to the ledger.

        Args:
          state: after the round.
          infos: of a dispatch of one round.
          ledger: gains seconds, joules and what the next round needs to know.

        Raises:
          ValueError: when messages cannot be told by client.
        """
        plan, setting = self._plan, self._setting
        if plan is None:
            raise ValueError("Expected before_round() first.")
        moved = bytes_by_client(infos.traffic, len(setting.links))
        up = [moved.sent[k] for k in plan.ids]
        down = [moved.received[k] for k in plan.ids]
        joules, end, last_decode = 0.0, plan.end, 0.0
        really = self._really(plan, ledger, down, up)
        for i, k in enumerate(plan.ids):
            expected = plan.visits[i]
            if plan.late[i] and down[i] is None:
                told = expected_bytes(setting, ledger, "downlink_bytes")
                _add(ledger, "late_bytes", told or 0)
            if plan.silent[i] and expected is not None:
                # It says so, with the times it saw, in a packet that nobody waits for.
                update(ledger, "ready", k, expected.trained - expected.began)
                update(ledger, "uplink_rates", k, plan.fresh_rates[i])
            elif not plan.allowed[i]:
                forget(ledger, k)
            if not plan.allowed[i]:
                continue
            seen = really[i]
            joules += seen.joules
            came = seen.arrived if math.isfinite(seen.arrived) else seen.encoded
            end = max(end, came)
            if up[i] is not None:
                cost = setting.uplink.decode[plan.rungs[i]]
                last_decode = max(last_decode, roofline_seconds(cost, setting.server))
            learn(setting, ledger, k, seen, down[i], up[i])
        joules += sum(self._spent_in_vain(plan, i, end) for i in range(len(plan.ids)))
        joules += self._listeners(ledger, moved.received, plan)
        self._count_rungs(plan, ledger)
        _add(ledger, "late_clients", float(plan.late.sum()))
        ledger.simulated_seconds = float(end + last_decode)
        ledger.joules = float((ledger.joules or 0.0) + joules)
        for name, sent in (("uplink_bytes", up), ("downlink_bytes", down)):
            heard = [size for size in sent if size is not None]
            if heard:
                ledger.conditions[name] = float(np.mean(heard))
        loss = float(np.asarray(infos.train_loss)[0])
        if not math.isnan(loss):  # else that of the last round in which anyone trained
            ledger.conditions["train_loss"] = loss
        if plan.before:
            self._observe(plan, state, ledger)
        ledger.conditions["simulated_rounds"] = round_of(ledger) + 1
        self._plan = None

    def _really(
        self,
        plan: _Plan,
        ledger: Ledger,
        down: list[int | None],
        up: list[int | None],
    ) -> dict[int, Visit]:
        """The visits of a round, by the bytes that were sent; late ones as expected."""
        setting = self._setting
        expected = expected_bytes(setting, ledger, "downlink_bytes")
        there = [i for i, seen in enumerate(plan.visits) if seen is not None]
        works = []
        for i in there:
            sizes = (down[i], up[i]) if plan.allowed[i] else (expected, plan.sizes[i])
            works.append(work_of(setting, plan.examples[i], plan.rungs[i], *sizes))
        visits = visits_of(setting, ledger, plan.ids[there], plan.start, works)
        return dict(zip(there, visits, strict=True))

    def _spent_in_vain(self, plan: _Plan, place: int, end: float) -> float:
        """Joules of a late client: until the round is closed, it goes, or gives up.

        One that a controller has told to be silent sends nothing, once it has trained.
        """
        client, seen = plan.ids[place], plan.visits[place]
        if seen is None or not plan.late[place]:
            return 0.0
        until = min(end, goes_at(self._setting.links[client], seen))
        if plan.silent[place]:
            until = min(until, seen.trained)
        return spent(self._setting.devices[client], seen, until)

    def _count_rungs(self, plan: _Plan, ledger: Ledger) -> None:
        """Counts the messages within each budget that the controller gave."""
        ladder = self._setting.ladder
        if self._setting.controller is None or ladder is None:
            return
        counts = np.bincount(plan.rungs[plan.allowed], minlength=ladder.bits.size)
        for bits, count in zip(ladder.bits, counts.tolist(), strict=True):
            _add(ledger, f"{WITHIN}{int(bits)}_bits", count)

    def _observe(self, plan: _Plan, state: TrainState, ledger: Ledger) -> None:
        """The energies of the round's updates, what compression added taken off."""
        after = _arrays(self._params_of(state.server))
        change = sum(
            float(np.sum((a.astype(np.float64) - b) ** 2))
            for a, b in zip(after, plan.before, strict=True)
        )
        ladder, spoke = self._setting.ladder, plan.allowed
        heard, errors = heard_energies(state.clients), ledger.conditions["heard_errors"]
        if ladder is None or heard is None or not spoke.any():
            return
        added = ladder.errors[plan.rungs[spoke]]
        if isinstance(errors, list):
            for k, error in zip(plan.ids[spoke], added, strict=True):
                errors[k] = float(error)
        w = plan.weights[spoke] / max(1.0, plan.weights[spoke].sum())
        energies = heard[plan.ids[spoke]].sum(axis=1, dtype=np.float64) / (1 + added)
        noise = float(np.sum(w**2 * energies * added))
        if not math.isfinite(noise):  # of a message that was dropped
            return
        ledger.conditions["update_energy"] = max(change - noise, 0.02 * change)
        ledger.conditions["update_weight"] = float(np.sum(w**2))

    def _steer(
        self,
        state: TrainState,
        ledger: Ledger,
        clients: Invited,
        here: np.ndarray,
        start: float,
        layer_sizes: np.ndarray,
    ) -> tuple[np.ndarray, list[int | None], np.ndarray | None, np.ndarray]:
        """Rungs `[C]`, expected sizes `[C]`, budgets if any, and the fresh rates.

        A controller is told of those alone that can be reached, `here`.
        """
        setting, count = self._setting, here.size
        controller, ladder = setting.controller, setting.ladder
        if controller is None or ladder is None:
            size = expected_bytes(setting, ledger, "uplink_bytes")
            return np.zeros(count, np.int64), [size] * count, None, np.zeros(count)
        shape = (count, layer_sizes.size) if controller.per_leaf else (count,)
        budgets, fresh = np.full(shape, NOT_INVITED), np.zeros(count)
        if here.any():
            there = Invited(*(np.asarray(x)[here] for x in clients))
            conditions = conditions_of(setting, ledger, there, start)
            heard = heard_energies(state.clients)
            statistics = statistics_of(ledger, there, heard, layer_sizes)
            saved = ledger.conditions["controller"]
            known = dict(saved) if isinstance(saved, dict) else {}
            new, budgets[here] = controller.step(known, conditions, statistics)
            ledger.conditions["controller"] = new
            fresh[here] = conditions.fresh_rates
        totals = budgets if budgets.ndim == 1 else budgets.sum(axis=1)
        rungs = rung_within(ladder, np.nan_to_num(totals))
        if not controller.per_leaf:
            # What is sent is a rung of the ladder, not all of the budget.
            budgets = np.where(totals > 0, ladder.bits[rungs], totals)
            totals = budgets
        sizes: list[int | None] = [math.ceil(bits / 8) if bits > 0 else None
                                   for bits in totals]  # fmt: skip
        return rungs, sizes, budgets, fresh

    def _listeners(self, ledger: Ledger, sizes: list[int | None], plan: _Plan) -> float:
        """Joules of clients that heard a broadcast and did nothing more.

        All of them are there: `simulate` refuses links that are away at times where
        everyone must hear.
        """
        setting, joules = self._setting, 0.0
        others = plan.ids[plan.allowed | plan.late]
        for k in np.setdiff1d(np.arange(len(setting.links)), others):
            size = sizes[k]
            if size is not None:
                random = np.random.default_rng([setting.seed, round_of(ledger), int(k)])
                end = arrival(setting.links[k].down, plan.start, size, random=random)
                joules += setting.devices[k].receive_watts * (end - plan.start)
        return joules


def _add(ledger: Ledger, name: str, amount: float) -> None:
    ledger.observed[name] = ledger.observed.get(name, 0.0) + amount


def _arrays(tree: PyTree) -> list[np.ndarray]:
    return [np.asarray(x) for x in jax.tree.leaves(tree)]
