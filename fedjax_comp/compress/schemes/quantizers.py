"""Quantizing pipelines of papers by name, each as its readers would expect it.

All of them act on the whole update as one vector. A flag may name a scheme or spell
out what it stands for: `drive()` is `flattened(chain(per_client(rotate()), eden(1)))`.
"""

from collections.abc import Sequence

from fedjax_comp.base import Compressor
from fedjax_comp.compress.budget.ladder import ladder
from fedjax_comp.compress.combine.chain import chain
from fedjax_comp.compress.combine.flattened import flattened
from fedjax_comp.compress.combine.per_client import per_client
from fedjax_comp.compress.entropy import entropy_coded
from fedjax_comp.compress.quantize.eden import ecsq, eden
from fedjax_comp.compress.quantize.scalar import qsgd, stochastic_quantize
from fedjax_comp.compress.transform.kashin import kashin
from fedjax_comp.compress.transform.rotate import BLOCKS, rotate
from fedjax_comp.compress.trellis.fixed_rate import trellis
from fedjax_comp.wire.codes import elias_omega


def _rotated(block: int | None) -> Compressor:
    return per_client(rotate(block=block))


def drive(*, unbiased: bool = True, block: int | None = None) -> Compressor:
    """DRIVE (Vargaftik et al., 2021): a rotation and one bit a coordinate.

    `E||C(x) - x||^2 / ||x||^2` is `pi/2 - 1` unbiased, `1 - 2/pi` otherwise.

    Args:
      unbiased: see `eden`.
      block: see `eden_fixed_rate`.

    >>> drive().linear
    False
    """
    return eden_fixed_rate(1, unbiased=unbiased, block=block)


def eden_fixed_rate(
    bits: float, *, unbiased: bool = True, block: int | None = None
) -> Compressor:
    """EDEN (Vargaftik et al., 2022) at a fixed rate: one rotation for each client.

    Args:
      bits: a coordinate, in (0, 8], whole or not.
      unbiased: see `eden`.
      block: rotate blocks of so many coordinates, each with a scale of 32 bits, in a
        third of the time (`rotate`); 4096 costs 1 / 128 bit a coordinate. Where few
        coordinates of a block outweigh the others it leaves a bias (`eden`): 0.09 of
        the norm on an LSTM's update, none to be seen on denser ones. Rotating twice
        leaves none: `chain(per_client(chain(rotate(block=4096), rotate(block=4096))),
        eden(bits, axis=1))` in `flattened`. With None all coordinates are rotated as
        one vector, as in the paper.

    Raises:
      ValueError: as `eden` and `rotate`.

    >>> eden_fixed_rate(2.5).linear
    False
    """
    return flattened(chain(_rotated(block), eden(bits, unbiased=unbiased, axis=BLOCKS)))


def eden_entropy_coded(
    bits: float, *, unbiased: bool = True, block: int | None = None
) -> Compressor:
    """EDEN's entropy-coded variant: a uniform step, about `bits` a coordinate.

    Args:
      bits: a coordinate, in (0, 8], whole or not.
      unbiased: see `ecsq`.
      block: see `eden_fixed_rate`.

    Raises:
      ValueError: as `ecsq` and `rotate`.

    >>> eden_entropy_coded(0.1).linear
    False
    """
    quantizer = ecsq(bits, unbiased=unbiased, axis=BLOCKS)
    return flattened(chain(_rotated(block), quantizer, entropy_coded()))


EDEN_RATES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 1.5, 2, 3, 4, 6, 8)
TRELLIS_RATES = (0.1, 0.25, 0.5, 1, 1.5, 2, 3, 4)


def budgeted_eden(
    rates: Sequence[float] = EDEN_RATES,
    *,
    unbiased: bool = True,
    block: int | None = None,
) -> Compressor:
    """EDEN at the highest of some rates whose message fits into the budget.

    Without a budget that is the last rate; a budget below the first is exceeded. The
    budget is traced, so that a new one needs no compilation (`ladder`).

    Args:
      rates: bits a coordinate, two or more, ascending, each as in `eden_fixed_rate`.
      unbiased: see `eden`.
      block: see `eden_fixed_rate`.

    Raises:
      ValueError: as `eden`, `rotate` and `ladder`.

    >>> budgeted_eden((0.5, 1)).linear
    False
    """
    rungs = (eden(bits, unbiased=unbiased, axis=BLOCKS) for bits in rates)
    return flattened(chain(_rotated(block), ladder(*rungs)))


def budgeted_trellis(
    rates: Sequence[float] = TRELLIS_RATES, *, states: int = 256, unbiased: bool = True
) -> Compressor:
    """As `budgeted_eden`, with the trellis of each rate behind the rotation.

    Args:
      rates: bits a coordinate, two or more, ascending, each as in `trellis`.
      states: see `trellis`.
      unbiased: see `trellis`.

    Raises:
      ValueError: as `trellis` and `ladder`.

    >>> budgeted_trellis((0.5, 1), states=16).linear
    False
    """
    rungs = (trellis(bits, states=states, unbiased=unbiased) for bits in rates)
    return flattened(chain(per_client(rotate()), ladder(*rungs)))


def rotated_quantize(levels: int) -> Compressor:
    """Suresh et al. (2017), section 3: a rotation, then stochastic uniform levels.

    Args:
      levels: in [2, 65536].

    >>> rotated_quantize(16).linear
    False
    """
    return flattened(chain(per_client(rotate()), stochastic_quantize(levels)))


def kashin_quantize(levels: int, *, redundancy: float = 2.0) -> Compressor:
    """Safaryan et al. (2020): Kashin's representation, then stochastic uniform levels.

    Args:
      levels: in [2, 65536].
      redundancy: coefficients for each coordinate, in (1, 16].

    >>> kashin_quantize(2).linear
    False
    """
    spread = kashin(redundancy=redundancy)
    return flattened(chain(per_client(spread), stochastic_quantize(levels)))


def qsgd_elias(levels: int) -> Compressor:
    """QSGD (Alistarh et al., 2017) with its Elias code, one norm for the whole update.

    Args:
      levels: in [1, 32767].

    >>> qsgd_elias(1).linear
    False
    """
    return flattened(chain(qsgd(levels), entropy_coded(symbols=elias_omega())))
