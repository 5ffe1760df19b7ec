"""A data set that is shipped once: what the server has was read from the bytes."""

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp.algorithms.shipped_data import ship, shipped_first
from fedjax_comp.base import SERVER, Algorithm, RoundInfo
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


def test_a_shipment_is_paid_for_once_by_those_who_have_examples():
    def run_round(key, server, clients, cohort):
        del key, cohort
        return server + 1, clients, RoundInfo(*[jnp.zeros(())] * 3, {}, {}, {})

    inner = Algorithm(
        lambda key, params: (params, ()), run_round, lambda server: server
    )
    algorithm = shipped_first(inner, (69, 0, 2**31))
    server, client = algorithm.init(jax.random.key(0), jnp.zeros(()))
    first, _, info = algorithm.round(jax.random.key(1), server, client, ())
    (kind,) = info.traffic
    assert kind == "examples"
    sent = info.traffic[kind]
    (lengths,) = sent.bits.variable
    assert (sent.bits.fixed, lengths.tolist()) == (0, [69, 0, 2**31])
    assert sent.spoke.tolist() == [True, False, True]
    assert sent.ends.sender.tolist() == [0, 1, 2]
    assert sent.ends.receiver.tolist() == [SERVER] * 3
    second, _, info = algorithm.round(jax.random.key(2), first, client, ())
    assert not info.traffic["examples"].spoke.any()
    assert algorithm.params(second) == 2
