"""A data set that is shipped once: what the server has was read from the bytes."""

import jax
import numpy as np

from fedjax_comp.algorithms.shipped_data import ship
from fedjax_comp.compress.quantize.lattice import uniform_lattice
from fedjax_comp.data import federated_data, load


def test_a_shipment_is_read_from_its_bytes():
    data = federated_data(load("digits"), [[0, 5, 9], [], [3]])
    shipment = ship(jax.random.key(0), data, uniform_lattice(1, rounding="nearest"))
    example = 64 + 1 + 4
    counts = [(n * 64).bit_length() + 2 * n.bit_length() for n in (3, 1)]
    assert shipment.bits == (3 * example + counts[0], 0, example + counts[1])
    order = [0, 5, 9, 3]
    x = np.asarray(data.examples.x)[order] / 16
    arrived = np.asarray(shipment.population.examples.x) / 16
    np.testing.assert_allclose(arrived, np.round(x), atol=1e-6)
    np.testing.assert_array_equal(
        shipment.population.examples.y, np.asarray(data.examples.y)[order]
    )
