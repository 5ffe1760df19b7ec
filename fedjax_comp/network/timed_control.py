"""Controllers that trade a round's time against the variance of its update.

Water-filling gives each client the bits that its link passes in a time that is the same
for all. Counting the time to encode as well, by a roofline of each device, is this
project's own: published work on adapting compression takes encoding to be free.
"""

import numpy as np

from fedjax_comp import checks
from fedjax_comp.network.allocation import water_filling
from fedjax_comp.network.control import (
    NOT_INVITED,
    SILENT,
    Conditions,
    Controller,
    ControlState,
    Ladder,
    Statistics,
    number,
)


def water_filled(
    ladder: Ladder, *, kappa: float = 1.0, least_share: float = 0.5
) -> Controller:
    """Water-filling: all clients finish together, at the time that pays off best.

    For a time `T` client `i` may spend `cap_i = rate_i (T - ready_i)` bits, and
    `water_filling` with these caps gives the rates. A client that cannot send the
    shortest message by then is not invited. The server chooses the time with the least
    `T (1 + kappa V)`, where `V` is the relative variance of the mean update
    (`relative_variance`): with the best step size SGD gains in a round `1 / (1 + V)` of
    what it would gain without variance. The client then sends what passes in the time
    that is left of `T` at the rate it has just seen, and stays silent if nothing does.

    Args:
      ladder: what can be sent, with the measured curve.
      kappa: how much variance costs; 1 is the rule above.
      least_share: of the cohort's examples that are to be in the mean, in [0, 1]. What
        one client knows that others do not is a bias, which no variance tells.

    Raises:
      ValueError: for a negative `kappa` or another share.
    """
    return _timed(ladder, kappa, least_share, charge_codec=False)


def hardware_aware(
    ladder: Ladder, *, kappa: float = 1.0, least_share: float = 0.5
) -> Controller:
    """As `water_filled`, but encoding and decoding are paid for.

    A client finishes rung `r` after `t_encode(device, r) + bits_r / uplink +
    t_decode(r)`; of those that finish in time it takes the one with the least error,
    which need not be the longest message. So a slow processor with a fast link gets a
    long message that is quickly encoded, and a fast processor with a slow link a short
    message.

    Args:
      ladder: what can be sent, with the measured error of each rung.
      kappa: as for `water_filled`.
      least_share: likewise.

    Raises:
      ValueError: for a negative `kappa` or another share.
    """
    return _timed(ladder, kappa, least_share, charge_codec=True)


def _timed(
    ladder: Ladder, kappa: float, least_share: float, *, charge_codec: bool
) -> Controller:
    checks.not_negative("kappa", kappa)
    if not 0 <= least_share <= 1:
        raise ValueError(f"Expected least_share={least_share} in [0, 1].")

    def step(
        state: ControlState, conditions: Conditions, statistics: Statistics
    ) -> tuple[ControlState, np.ndarray]:
        share = signal_share(statistics, number(state["signal_share"]))
        codec = conditions.encode_seconds + conditions.decode_seconds[None, :]
        codec = codec * float(charge_codec) + conditions.latency_seconds[:, None]
        passing = ladder.bits[None, :] / conditions.known_rates[:, None]
        expected = conditions.ready_seconds[:, None] + codec + passing
        seconds = best_time(expected, ladder, statistics, share, kappa, least_share)
        invited = expected.min(axis=1) <= seconds * (1 + 1e-9)
        fresh = ladder.bits[None, :] / conditions.fresh_rates[:, None]
        actual = conditions.spent_seconds[:, None] + codec + fresh
        in_time = actual <= seconds * (1 + 1e-9)
        if charge_codec:
            bits = ladder.bits[least_error_within(actual, ladder, seconds)]
        else:
            caps = np.where(in_time, ladder.bits[None, :], 0.0).max(axis=1)
            importance = statistics.weights**2 * statistics.energies
            bits = water_filling(importance, caps / ladder.num_parameters)
            bits = bits * ladder.num_parameters
        shortest = np.where(conditions.known, SILENT, ladder.bits[0])
        budgets = np.where(in_time.any(axis=1), bits, shortest)
        # As long as nothing is known everyone is heard, whatever it takes.
        invited |= ~conditions.known
        new: ControlState = {"signal_share": share, "seconds": seconds}
        return new, np.where(invited, budgets, NOT_INVITED)

    return Controller({"signal_share": 0.0, "seconds": 0.0}, step)


def signal_share(statistics: Statistics, before: float) -> float:
    """How much of a client's update all clients have in common: `||g||^2 / E||x_i||^2`.

    With `x_i = g + noise_i` the mean has the energy `||g||^2 + sum_i w_i^2 (E||x||^2 -
    ||g||^2)`, which is solved for `g`; a running mean, since every round is noisy.

    Args:
      statistics: of the training.
      before: the share so far; 0 when there is none.
    """
    mean = float(statistics.weights @ statistics.energies)
    own = statistics.update_weight
    if statistics.update_energy <= 0 or mean <= 0 or own >= 1:
        return before or 0.5
    now = (statistics.update_energy / mean - own) / (1 - own)
    now = min(1.0, max(0.02, now))
    return now if before == 0 else before + 0.2 * (now - before)


def relative_variance(
    statistics: Statistics, errors: np.ndarray, speaks: np.ndarray, share: float
) -> float:
    """`E||mean - g||^2 / ||g||^2` of the mean over those who speak.

        V = sum_i v_i^2 (1 - s + D_i) / s,   v_i = w_i / sum of w over the speakers,

    `s` being the share of the signal. That of the clients' own differences is in it:
    leaving a client out costs something, and a small error beside them costs little.

    Args:
      statistics: with the weights and energies.
      errors: `D_i`, `[C]`.
      speaks: bool `[C]`.
      share: `s`.

    >>> even = Statistics(np.full(4, 0.25), np.ones(4), np.ones(1), np.ones(1), 1, 1, 1)
    >>> relative_variance(even, np.full(4, 0.5), np.ones(4, bool), share=0.5)
    0.5
    """
    w = statistics.weights * speaks
    if w.sum() <= 0:
        return np.inf
    each = statistics.energies / max(float(statistics.energies.mean()), 1e-300)
    own = (w / w.sum()) ** 2 * each * (1 - share + np.where(speaks, errors, 0.0))
    return float(own.sum() / share)


def least_error_within(seconds: np.ndarray, ladder: Ladder, limit: float) -> np.ndarray:
    """The rung of the least error that each client ends in time, its fastest if none.

    Args:
      seconds: of each rung, `[C, R]`.
      ladder: the rungs.
      limit: seconds.

    >>> ladder = Ladder(np.array([1.0, 2.0]), np.array([0.5, 0.1]), 1)
    >>> least_error_within(np.array([[1.0, 2.0], [5.0, 9.0]]), ladder, 3.0).tolist()
    [1, 0]
    """
    in_time = seconds <= limit * (1 + 1e-9)
    errors = np.where(in_time, ladder.errors[None, :], np.inf)
    return np.where(in_time.any(axis=1), errors.argmin(axis=1), seconds.argmin(axis=1))


def best_time(
    seconds: np.ndarray,
    ladder: Ladder,
    statistics: Statistics,
    share: float,
    kappa: float,
    least_share: float = 0.0,
) -> float:
    """The time with the least `T (1 + kappa V(T))` among those at which a rung ends.

    Between two of them nothing changes but `T`, so that no other can be better.

    Args:
      seconds: of each client and rung, `[C, R]`.
      ladder: the rungs.
      statistics: of the training.
      share: of the signal, for `relative_variance`.
      kappa: what variance costs.
      least_share: of the weights, of those who speak.
    """
    best, best_value = float(seconds.min(axis=1).max()), np.inf
    for limit in np.unique(seconds):
        errors = ladder.errors[least_error_within(seconds, ladder, float(limit))]
        speaks = seconds.min(axis=1) <= limit * (1 + 1e-9)
        if statistics.weights @ speaks < least_share - 1e-9:
            continue
        variance = relative_variance(statistics, errors, speaks, share)
        value = float(limit) * (1 + kappa * variance)
        if value < best_value:
            best, best_value = float(limit), value
    return best
