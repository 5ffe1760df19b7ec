"""Controllers: they set budgets in bits by what is known of links and training.

One contract: `step: (state, conditions, statistics) -> (state, budgets)`, pure NumPy on
the host, called before each round. A controller is told only what was observed: rates
come from earlier messages and from the download just done, never from a trace's future.
Budgets are written into the compiled round as arrays (`fedjax_comp.network.steering`).

Kimad (Xin et al., "Kimad: adaptive gradient compression with bandwidth awareness",
2023), Accordion (Agarwal et al., 2021), AdaQuantFL (Jhunjhunwala et al., 2021) and
DAdaQuant (Hönig et al., 2022) are reconstructions: their rules for setting bits,
applied to this ladder of messages, without the rest of those methods. The controllers
that trade time against variance are in `fedjax_comp.network.timed_control`.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np

from fedjax_comp import checks
from fedjax_comp.network.allocation import layer_knapsack

ControlState: TypeAlias = dict[str, object]
"""Plain numbers and lists of them, so that a checkpoint can hold it as JSON."""


class Ladder(NamedTuple):
    """The messages that can be sent: the measured curve `D(R)` of a compressor.

    Attributes:
      bits: of each message, ascending, `[R]`.
      errors: `E||C(x) - x||^2 / ||x||^2` of each, as measured, `[R]`.
      num_parameters: `n`.
    """

    bits: np.ndarray
    errors: np.ndarray
    num_parameters: int


class Conditions(NamedTuple):
    """What is known before a cohort encodes, of each client that can be reached.

    Attributes:
      round: from 0.
      known: bool `[C]`, whether there is anything to judge a client's times by.
      known_rates: bits a second of the uplink by the server's estimate, `[C]`.
      fresh_rates: likewise by the client, who has just downloaded, `[C]`.
      ready_seconds: expected time from the round's start until a client encodes, `[C]`.
      spent_seconds: what it was, `[C]`: like the fresh rates, the client's knowledge.
      latency_seconds: one way, `[C]`.
      encode_seconds: of each rung, `[C, R]`.
      decode_seconds: of each rung, at the server, `[R]`.
    """

    round: int
    known: np.ndarray
    known_rates: np.ndarray
    fresh_rates: np.ndarray
    ready_seconds: np.ndarray
    spent_seconds: np.ndarray
    latency_seconds: np.ndarray
    encode_seconds: np.ndarray
    decode_seconds: np.ndarray


class Statistics(NamedTuple):
    """What is known of the training.

    Attributes:
      weights: of each client, summing to 1, `[C]`.
      energies: `||x_i||^2` of each client's last update, `[C]`; ones before the first.
        What the server has is `||C(x_i)||^2`, from which the error that its rung adds
        has been taken off, as if `C` were unbiased; so it has from `update_energy`.
      layer_energies: likewise of each layer, over the cohort, `[L]`.
      layer_sizes: coordinates of each layer, `[L]`.
      update_energy: `||sum_i w_i x_i||^2` of the last round; 0 before the first. It is
        that of what the model moved by, and so of a server optimizer's own step where
        that is not `optax.sgd(1.0)`.
      update_weight: `sum_i w_i^2` over those who spoke in it.
      train_loss: of the last round; NaN before the first.
    """

    weights: np.ndarray
    energies: np.ndarray
    layer_energies: np.ndarray
    layer_sizes: np.ndarray
    update_energy: float
    update_weight: float
    train_loss: float


Step = Callable[[ControlState, Conditions, Statistics], tuple[ControlState, np.ndarray]]


NOT_INVITED = 0.0
"""The budget of a client that the server leaves out of the round: nobody waits."""

SILENT = np.nan
"""That of one which finds by itself that it would be late: the server waits until
`state["seconds"]` after the start of the round."""


class Controller(NamedTuple):
    """A rule for budgets.

    Attributes:
      state: before the first round.
      step: `(state, conditions, statistics) -> (state, budgets)`, bits `[C]`, or
        `[C, L]` when `per_leaf`; also `NOT_INVITED` and `SILENT`.
      per_leaf: whether every leaf has a budget of its own.
    """

    state: ControlState
    step: Step
    per_leaf: bool = False


def rung_within(ladder: Ladder, bits: np.ndarray) -> np.ndarray:
    """The last rung within each number of bits, the first when none is."""
    places = np.searchsorted(ladder.bits, np.asarray(bits) * (1 + 1e-9), side="right")
    return np.maximum(places - 1, 0)


def fixed(bits: float) -> Controller:
    """Always the same budget.

    Args:
      bits: of a client's message.

    Raises:
      ValueError: unless they are positive.

    >>> fixed(8.0).step({}, None, Statistics(np.ones(2), *[np.ones(2)] * 3, 0, 0, 0))[1]
    array([8., 8.])
    """
    checks.positive("bits", bits)

    def step(
        state: ControlState, conditions: Conditions, statistics: Statistics
    ) -> tuple[ControlState, np.ndarray]:
        del conditions
        return state, np.full(statistics.weights.size, float(bits))

    return Controller({}, step)


def kimad(allowed_seconds: float) -> Controller:
    """Kimad: as many bits as the estimated bandwidth passes in the time allowed.

    Args:
      allowed_seconds: for the upload.

    Raises:
      ValueError: unless it is positive.
    """
    checks.positive("allowed_seconds", allowed_seconds)

    def step(
        state: ControlState, conditions: Conditions, statistics: Statistics
    ) -> tuple[ControlState, np.ndarray]:
        del statistics
        return state, conditions.known_rates * allowed_seconds

    return Controller({}, step)


def accordion(
    hard_bits: float, gentle_bits: float, *, threshold: float = 0.5, interval: int = 10
) -> Controller:
    """Accordion: compress gently while the gradient's norm changes, else hard.

    Every `interval` rounds `| ||g_old|| - ||g|| | / ||g_old||` is held against the
    threshold, `g` being the aggregated update. The first `g_old` is that of the first
    round, as in the authors' program.

    Args:
      hard_bits: budget where the change is below the threshold.
      gentle_bits: budget where it is not, and in the first interval.
      threshold: relative change of the norm.
      interval: rounds between decisions.

    Raises:
      ValueError: unless all are positive.
    """
    for name, value in (("hard_bits", hard_bits), ("gentle_bits", gentle_bits)):
        checks.positive(name, value)
    checks.positive("threshold", threshold)
    checks.positive("interval", interval)

    def step(
        state: ControlState, conditions: Conditions, statistics: Statistics
    ) -> tuple[ControlState, np.ndarray]:
        norm = float(np.sqrt(statistics.update_energy))
        bits, old = number(state["bits"]), number(state["norm"])
        if old <= 0:
            old = norm
        elif conditions.round % interval == 0:
            change = abs(old - norm) / old
            bits = gentle_bits if change >= threshold else hard_bits
            old = norm
        new: ControlState = {"bits": bits, "norm": old}
        return new, np.full(statistics.weights.size, bits)

    return Controller({"bits": float(gentle_bits), "norm": 0.0}, step)


def ada_quant(
    num_parameters: int, *, levels: int = 2, rising: bool = True
) -> Controller:
    """AdaQuantFL: levels with the root of how far the loss has fallen.

        s_k = s_0 sqrt(f_0 / f_k)  rising,    s_0 sqrt(f_k / f_0)  falling,

    at `log2(s_k + 1)` bits a coordinate. Both trends are published; try both.

    Args:
      num_parameters: `n`.
      levels: `s_0`.
      rising: which trend.

    Raises:
      ValueError: unless both numbers are at least 1.
    """
    checks.positive("num_parameters", num_parameters)
    checks.positive("levels", levels)

    def step(
        state: ControlState, conditions: Conditions, statistics: Statistics
    ) -> tuple[ControlState, np.ndarray]:
        del conditions
        loss, first = statistics.train_loss, number(state["first_loss"])
        if not first and np.isfinite(loss):
            first = float(loss)
        ratio = 1.0
        if first and np.isfinite(loss) and loss > 0:
            ratio = first / loss if rising else loss / first
        bits = num_parameters * np.log2(levels * np.sqrt(ratio) + 1)
        return {"first_loss": first}, np.full(statistics.weights.size, float(bits))

    return Controller({"first_loss": 0.0}, step)


def dada_quant(
    num_parameters: int, *, levels: int = 1, patience: int = 5, smoothing: float = 0.9
) -> Controller:
    """DAdaQuant: twice the levels when the loss stalls, more for heavier clients.

    `q` doubles when the running mean of the loss has not fallen for `patience` rounds.
    Client `i` has `q_i = sqrt(a / b) w_i^(2/3)`, `a = sum_j w_j^(2/3)`,
    `b = sum_j w_j^2 / q^2`: the least sum of levels with the variance of `q` for all.

    Args:
      num_parameters: `n`.
      levels: `q` at first.
      patience: rounds.
      smoothing: of the running mean, in [0, 1).

    Raises:
      ValueError: for numbers that are none of these.
    """
    checks.positive("num_parameters", num_parameters)
    checks.positive("levels", levels)
    checks.positive("patience", patience)
    if not 0 <= smoothing < 1:
        raise ValueError(f"Expected smoothing={smoothing} in [0, 1).")

    def step(
        state: ControlState, conditions: Conditions, statistics: Statistics
    ) -> tuple[ControlState, np.ndarray]:
        del conditions
        q, mean = number(state["q"]), number(state["mean"])
        best, waited = number(state["best"]), number(state["waited"])
        loss = statistics.train_loss
        if np.isfinite(loss):
            mean = loss if mean < 0 else smoothing * mean + (1 - smoothing) * loss
            waited = waited + 1 if best >= 0 and mean >= best else 0.0
            best = mean if best < 0 else min(best, mean)
            if waited >= patience:
                q, waited = 2 * q, 0.0
        new: ControlState = {"q": q, "mean": mean, "best": best, "waited": waited}
        w = statistics.weights
        own = client_levels(w, q)
        return new, num_parameters * np.log2(own + 1)

    return Controller({"q": float(levels), "mean": -1.0, "best": -1.0, "waited": 0.0},
                      step)  # fmt: skip


def client_levels(weights: np.ndarray, levels: float) -> np.ndarray:
    """DAdaQuant's levels of each client: the least sum at the variance of `levels`.

    >>> client_levels(np.full(4, 0.25), 3.0).round(6).tolist()
    [3.0, 3.0, 3.0, 3.0]
    """
    w = np.asarray(weights, np.float64)
    a, b = np.sum(w ** (2 / 3)), np.sum(w**2) / levels**2
    return np.sqrt(a / b) * w ** (2 / 3)


def l_greco(
    ladder: Ladder, *, bits_per_coordinate: float, interval: int = 20
) -> Controller:
    """L-GreCo: every few rounds a knapsack over layers at the error of a uniform rate.

    The error allowed is that of the uniform rate on all layers; the least total size
    with no more than it is chosen. Every client has the same budgets.

    Args:
      ladder: sizes and errors by bits a coordinate; a layer's are in proportion.
      bits_per_coordinate: of the uniform rate.
      interval: rounds between decisions.

    Raises:
      ValueError: unless both numbers are positive.
    """
    checks.positive("bits_per_coordinate", bits_per_coordinate)
    checks.positive("interval", interval)
    rates = ladder.bits / ladder.num_parameters

    def step(
        state: ControlState, conditions: Conditions, statistics: Statistics
    ) -> tuple[ControlState, np.ndarray]:
        del conditions
        uniform = int(
            rung_within(ladder, np.array(bits_per_coordinate * ladder.num_parameters))
        )
        picks = state["picks"]
        since = int(number(state["since"]))
        energies = statistics.layer_energies
        if energies.sum() > 0 and (not picks or since >= interval):
            errors = energies[:, None] * ladder.errors[None, :]
            sizes = statistics.layer_sizes[:, None] * rates[None, :]
            # A little slack is what rounding errors up to whole steps takes.
            allowed = errors[:, uniform].sum() * (1 + 1e-3)
            picks = [int(r) for r in layer_knapsack(errors, sizes, allowed)]
            since = 0
        own = np.array(picks or [uniform] * energies.size, np.int64)
        budgets = rates[own] * statistics.layer_sizes + LEAF_HEADER_BITS
        new: ControlState = {"picks": picks, "since": since + 1}
        return new, np.tile(budgets, (statistics.weights.size, 1))

    return Controller({"picks": [], "since": 0}, step, per_leaf=True)


LEAF_HEADER_BITS = 96
"""What a leaf's scale and width take at most, on top of its coordinates."""


def number(value: object) -> float:
    """A number of a controller's state; 0 for what is none."""
    return float(value) if isinstance(value, int | float) else 0.0
