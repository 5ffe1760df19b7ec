"""What a simulated server and its clients know of links, from what they have seen.

These estimates are kept in the ledger as plain numbers, and so in every checkpoint:
running means of each client's uplink rate, of its uplink rate over its downlink rate,
and of the time until it could encode. Nothing is read from a trace's future.
"""

import math
from collections.abc import Sequence

import numpy as np

from fedjax_comp.invited import Invited
from fedjax_comp.metrics import Ledger
from fedjax_comp.network.clock import Visit, Work
from fedjax_comp.network.control import Conditions, Statistics
from fedjax_comp.network.devices import NOTHING, Cost, roofline_seconds
from fedjax_comp.network.links import Link
from fedjax_comp.network.setting import Setting
from fedjax_comp.network.sharing import shared_visits

FIRST_GUESS = 1e6
"""Bits a second of a link of which nothing is known yet."""

SMOOTHING = 0.5
"""Weight of the newest observation in a running mean."""


def conditions_of(
    setting: Setting, ledger: Ledger, clients: Invited, start: float
) -> Conditions:
    """What is known of clients before they encode.

    Args:
      setting: what the run is simulated on.
      ledger: with what earlier rounds have shown.
      clients: who will download and train, NumPy arrays.
      start: of the round, seconds.
    """
    ids = np.asarray(clients.client_id)
    rates = np.array(ledger.conditions["uplink_rates"])
    shares = np.array(ledger.conditions["shares"])
    ready = np.array(ledger.conditions["ready"])
    guess = rates[rates > 0].mean() if rates.any() else FIRST_GUESS
    share = shares[shares > 0].mean() if shares.any() else 1.0
    size = expected_bytes(setting, ledger, "downlink_bytes")
    codec = setting.uplink
    fresh, spent, expected = [], [], []
    works = [work_of(setting, count, 0, size, None) for count in clients.examples]
    visits = visits_of(setting, ledger, ids, start, works)
    for k, seen in zip(ids, visits, strict=True):
        own_share = shares[k] if shares[k] > 0 else share
        rate = _download_rate(setting.links[k], seen, size)
        known = rates[k] if rates[k] > 0 else guess
        fresh.append(known if rate is None else own_share * rate)
        encode = roofline_seconds(codec.encode[0], setting.devices[k])
        spent.append(seen.encoded - encode - start)
        computing = seen.encoded - encode - seen.downloaded
        first = 8.0 * (size or 0) / known + computing
        expected.append(ready[k] if ready[k] > 0 else first)
    return Conditions(
        round=ledger.rounds,
        # What is known of others is enough to judge a newcomer by.
        known=np.full(ids.size, bool(rates.any())),
        known_rates=np.where(rates[ids] > 0, rates[ids], guess),
        fresh_rates=np.array(fresh),
        ready_seconds=np.array(expected),
        spent_seconds=np.array(spent),
        latency_seconds=np.array([setting.links[k].up.latency_seconds for k in ids]),
        encode_seconds=np.array(
            [
                [roofline_seconds(c, setting.devices[k]) for c in codec.encode]
                for k in ids
            ]
        ),
        decode_seconds=np.array(
            [roofline_seconds(c, setting.server) for c in codec.decode]
        ),
    )


def statistics_of(
    ledger: Ledger,
    clients: Invited,
    heard: np.ndarray | None,
    layer_sizes: np.ndarray,
) -> Statistics:
    """What is known of the training before clients encode.

    Args:
      ledger: with what earlier rounds have shown.
      clients: who will train, NumPy arrays.
      heard: energies of the last messages of all clients, `[K, L]`; None for none.
      layer_sizes: coordinates of each layer, `[L]`.
    """
    ids = np.asarray(clients.client_id)
    own = np.ones((ids.size, layer_sizes.size))
    if heard is not None:
        # A message that is not finite was dropped, and tells nothing.
        whole = np.isfinite(heard).all(axis=1, keepdims=True)
        heard = np.where(whole, heard, 0.0)
    if heard is not None and heard[ids].any():
        added = np.array(ledger.conditions["heard_errors"])[ids]
        own = heard[ids].astype(np.float64) / (1 + added[:, None])
        # A client that has not been heard yet is taken for the mean of the others.
        known = own.sum(axis=1) > 0
        own[~known] = own[known].mean(axis=0)
    weights = np.asarray(clients.num_examples, np.float64)
    loss = ledger.conditions["train_loss"]
    return Statistics(
        weights=weights / max(1.0, weights.sum()),
        energies=own.sum(axis=1),
        layer_energies=own.mean(axis=0),
        layer_sizes=layer_sizes,
        update_energy=as_float(ledger.conditions["update_energy"]),
        update_weight=as_float(ledger.conditions["update_weight"]),
        train_loss=math.nan if loss is None else as_float(loss),
    )


def learn(
    setting: Setting,
    ledger: Ledger,
    k: int,
    seen: Visit,
    down: int | None,
    up: int | None,
) -> None:
    """Running means of what client `k` was seen to reach."""
    link = setting.links[k]
    update(ledger, "ready", k, seen.trained - seen.began)
    if up is None or not math.isfinite(seen.arrived):
        return
    taken = seen.arrived - seen.encoded - link.up.latency_seconds
    if taken > 0 and up > 0:
        rate = 8.0 * up / taken
        update(ledger, "uplink_rates", k, rate)
        download = _download_rate(link, seen, down)
        if download is not None:
            update(ledger, "shares", k, rate / download)


def update(ledger: Ledger, name: str, k: int, value: float) -> None:
    """Moves a running mean of client `k` towards an observation, or sets it."""
    values = ledger.conditions[name]
    if isinstance(values, list):
        old = values[k]
        new = value if old == 0 else old + SMOOTHING * (value - old)
        values[k] = float(new)


def forget(ledger: Ledger, k: int) -> None:
    """Moves what is known of a client that is left out half way to the median.

    Of all clients, that is: links change, and a client that was slow once and is never
    asked again would stay slow for ever.
    """
    for name in ("uplink_rates", "ready"):
        values = np.array(ledger.conditions[name])
        if values[k] > 0:
            update(ledger, name, k, float(np.median(values[values > 0])))


def expected_bytes(setting: Setting, ledger: Ledger, name: str) -> int | None:
    """The bytes of a message as expected; None when nothing is known.

    The mean of the last round is that of a fixed size exactly, and right as well where
    something else than the model travels.
    """
    seen = ledger.conditions.get(name)
    if seen is not None:
        return math.ceil(as_float(seen))
    fixed: int | None = getattr(setting, name)
    return fixed


def work_of(
    setting: Setting, examples: int, rung: int, down: int | None, up: int | None
) -> Work:
    """What a client has to do: train on `examples`, encode by a rung, send and hear."""
    each = setting.train_example
    train = Cost(each.flops * examples, each.bytes * examples, each.factor)
    heard = setting.downlink.decode[0] if down is not None else NOTHING
    return Work(down, up, train, setting.uplink.encode[rung], heard)


def visits_of(
    setting: Setting,
    ledger: Ledger,
    ids: np.ndarray,
    start: float,
    works: Sequence[Work],
) -> list[Visit]:
    """Clients in this round: the same packets are lost whenever they are asked for."""
    return shared_visits(
        [setting.links[k] for k in ids],
        [setting.devices[k] for k in ids],
        start,
        works,
        setting.server_link,
        randoms=[
            np.random.default_rng([setting.seed, round_of(ledger), int(k)]) for k in ids
        ],
    )


def _download_rate(link: Link, seen: Visit, size: int | None) -> float | None:
    taken = seen.downloaded - seen.began - link.down.latency_seconds
    return 8.0 * size / taken if size and taken > 0 else None


def round_of(ledger: Ledger) -> int:
    """The round that is being worked out: `conditions` counts it, not `rounds`."""
    return int(as_float(ledger.conditions["simulated_rounds"]))


def seconds_of(ledger: Ledger) -> float:
    """The time that a controller has given the round; 0 where it gives none."""
    state = ledger.conditions["controller"]
    return as_float(state["seconds"]) if isinstance(state, dict) else 0.0


def as_float(value: object) -> float:
    """A number of the ledger; `ValueError` when it is none."""
    if not isinstance(value, int | float):
        raise ValueError(f"Expected a number in the ledger, got {value!r}.")
    return float(value)
