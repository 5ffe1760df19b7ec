"""Links between data centres in eleven regions of the world.

The regions are those of Hsieh et al. 2017, "Gaia". Their measurements are not public as
numbers, so the links here are a reconstruction: the bandwidth between two regions falls
with their distance on the globe, from 1/15 of a local network's for the nearest pair to
1/60 for the farthest, which is the range that they report. `read_matrix` reads another
matrix from a file.
"""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np

REGIONS = {
    "Virginia": (38.9, -77.5),
    "California": (37.4, -121.9),
    "Oregon": (45.8, -119.7),
    "Ireland": (53.3, -6.3),
    "Frankfurt": (50.1, 8.7),
    "Tokyo": (35.7, 139.7),
    "Seoul": (37.6, 127.0),
    "Singapore": (1.3, 103.8),
    "Sydney": (-33.9, 151.2),
    "Mumbai": (19.1, 72.9),
    "Sao Paulo": (-23.5, -46.6),
}
"""Latitude and longitude in degrees, of the city that stands for a region."""

GROUPS = (
    ("Virginia", "California", "Oregon", "Sao Paulo"),
    ("Ireland", "Frankfurt"),
    ("Singapore", "Tokyo", "Seoul", "Sydney", "Mumbai"),
)
"""Regions that reach each other faster than the rest; the first of each is its hub."""

EARTH_RADIUS_KM = 6371.0
KM_PER_SECOND = 200_000.0
"""Of light in a fibre."""


class Links(NamedTuple):
    """What every centre has to every other, `[N, N]`, from row to column.

    Attributes:
      bits_per_second: bandwidth; infinite to oneself.
      latency_seconds: of one way; zero to oneself.
    """

    bits_per_second: np.ndarray
    latency_seconds: np.ndarray


def lan(num_centres: int, *, mbps: float) -> Links:
    """All centres in one place.

    >>> lan(2, mbps=8.0).bits_per_second.tolist()
    [[inf, 8000000.0], [8000000.0, inf]]
    """
    rate = np.full((num_centres, num_centres), mbps * 1e6)
    np.fill_diagonal(rate, np.inf)
    return Links(rate, np.zeros_like(rate))


def wan(*, lan_mbps: float, nearest: float, farthest: float) -> Links:
    """The eleven regions.

    Args:
      lan_mbps: bandwidth of a local network.
      nearest: how many times less two regions have at the smallest distance.
      farthest: how many times less at the largest.

    Returns:
      The links, latency at the speed of light in a fibre.

    Raises:
      ValueError: unless `1 <= nearest <= farthest`.

    >>> links = wan(lan_mbps=600.0, nearest=15.0, farthest=60.0)
    >>> float(links.bits_per_second.min()) / 1e6
    10.0
    """
    if not 1 <= nearest <= farthest:
        raise ValueError(f"Expected 1 <= nearest={nearest} <= farthest={farthest}.")
    km = distances_km()
    apart = ~np.eye(len(km), dtype=bool)
    low, high = km[apart].min(), km[apart].max()
    ratio = nearest + (farthest - nearest) * (km - low) / (high - low)
    rate = np.where(apart, lan_mbps * 1e6 / np.where(apart, ratio, 1.0), np.inf)
    return Links(rate, km / KM_PER_SECOND)


def distances_km() -> np.ndarray:
    """Great-circle distances of all regions, `[11, 11]`.

    >>> bool(5300 < distances_km()[0, 3] < 5700)  # Virginia to Ireland
    True
    """
    latitude, longitude = np.radians(np.array(list(REGIONS.values()))).T
    towards = np.stack(
        [
            np.cos(latitude) * np.cos(longitude),
            np.cos(latitude) * np.sin(longitude),
            np.sin(latitude),
        ],
        axis=1,
    )
    return EARTH_RADIUS_KM * np.arccos(np.clip(towards @ towards.T, -1, 1))


def read_matrix(path: str) -> Links:
    """Links from a file: a row for every centre, megabits a second to each other.

    Args:
      path: CSV without a header; the diagonal is not looked at.

    Returns:
      The links, without latency.

    Raises:
      ValueError: when the file cannot be read, is not square, or has a bandwidth that
        is not positive.
    """
    try:
        with Path(path).open(encoding="utf-8", newline="") as file:
            rate = np.array([[float(v) for v in row] for row in csv.reader(file)])
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not a table of numbers: {error}") from error
    if rate.ndim != 2 or rate.shape[0] != rate.shape[1] or len(rate) < 2:
        raise ValueError(f"{path} has shape {rate.shape}, not [N, N].")
    np.fill_diagonal(rate, np.inf)
    if not (rate > 0).all():
        raise ValueError(f"{path} has a bandwidth that is not above 0.")
    return Links(rate * 1e6, np.zeros_like(rate))


def hubs_of(num_centres: int) -> tuple[int, ...]:
    """The hub of every region.

    Raises:
      ValueError: unless the centres are the eleven regions.

    >>> hubs_of(11)
    (0, 0, 0, 3, 3, 7, 7, 7, 7, 7, 0)
    """
    names = list(REGIONS)
    if num_centres != len(names):
        raise ValueError(
            f"Hubs are known for the {len(names)} regions only, not for "
            f"{num_centres} centres."
        )
    hub = {name: group[0] for group in GROUPS for name in group}
    return tuple(names.index(hub[name]) for name in names)
