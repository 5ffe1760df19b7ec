"""Links correlated with data: clients with high labels have slow links.

In every other network here links and labels are independent, so that leaving slow
clients out costs nothing but variance. Where the slow clients hold what nobody else
holds, a server that takes the first arrivals never learns from it.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist

import numpy as np

from fedjax_comp.data import FederatedData
from fedjax_comp.network.links import Link, mean_uplink_rate
from fedjax_comp.network.networks import Network


def by_label(network: Network, rho: float) -> Network:
    """Assigns a network's links so that clients with high labels get slow ones.

    Client `k` has the score `rho s_k + sqrt(1 - rho^2) e_k`, where `s_k` is the normal
    score of the rank of its mean label and `e_k` standard normal noise: a Gaussian
    copula. The client of the highest score gets the slowest link, by its mean uplink
    rate. The links are those of `network`, in another order, so that nothing but their
    relation to the data changes. Over many clients the rank correlation of labels and
    slowness is `6 / pi asin(rho / 2)`.

    Args:
      network: the links; a packet is lost and a client away as there.
      rho: from 0, links independent of labels, to 1, sorted.

    Returns:
      A network that needs the clients' labels when it is called.

    Raises:
      ValueError: for another `rho`; when called, without labels.

    >>> from fedjax_comp.network.networks import lognormal
    >>> labels = np.array([3.0, 9.0, 1.0])
    >>> links = by_label(lognormal(), rho=1.0)(3, 0, None, labels)
    >>> np.argsort([mean_uplink_rate(link) for link in links]).tolist()
    [1, 0, 2]
    """
    if not 0 <= rho <= 1:
        raise ValueError(f"Expected rho={rho} in [0, 1].")

    def dealt(
        num_clients: int,
        seed: int,
        raw_dir: Path | None,
        labels: np.ndarray | None = None,
    ) -> Sequence[Link]:
        if labels is None:
            raise ValueError(
                "by_label(...) deals links by the labels that clients hold, and these "
                "clients hold none that are known before the run: leave it out."
            )
        links = network(num_clients, seed, raw_dir, labels)
        slowest_first = np.argsort([mean_uplink_rate(link) for link in links])
        order = slow_order(labels, rho, np.random.default_rng([seed, 7]))
        made = list(links)
        for client, link in zip(order, slowest_first, strict=True):
            made[client] = links[link]
        return made

    return dealt


def slow_order(
    labels: np.ndarray, rho: float, random: np.random.Generator
) -> np.ndarray:
    """The clients in the order in which slow links are dealt, int `[K]`.

    Args:
      labels: mean label of each client, `[K]`; equal ones are ranked at random.
      rho: as for `by_label`.
      random: draws the noise.

    >>> random = np.random.default_rng(0)
    >>> slow_order(np.array([3.0, 9.0, 1.0]), 1.0, random).tolist()
    [1, 0, 2]
    """
    count = labels.size
    ranks = np.empty(count, np.int64)
    ranks[np.lexsort((random.random(count), labels))] = np.arange(count)
    quantile = NormalDist().inv_cdf
    scores = np.array([quantile((rank + 0.5) / count) for rank in ranks])
    noise = random.normal(size=count)
    return np.argsort(-(rho * scores + math.sqrt(1 - rho**2) * noise))


def mean_labels(population: FederatedData) -> np.ndarray:
    """The mean label of each client's examples, float64 `[K]`.

    A client without examples has the mean of all.

    >>> from fedjax_comp.data import federated_data, load
    >>> mean_labels(federated_data(load("digits"), [[0, 5, 9], [], [3]])).round(2)
    array([6.67, 5.75, 3.  ])
    """
    order, offsets = np.asarray(population.order), np.asarray(population.offsets)
    labels = np.asarray(population.examples.y)[order].astype(np.float64)
    each = labels.reshape(labels.shape[0], -1).mean(axis=1)
    sums = np.concatenate([[0.0], np.cumsum(each)])
    sizes = np.diff(offsets)
    return np.where(
        sizes > 0, np.diff(sums[offsets]) / np.maximum(sizes, 1), each.mean()
    )
