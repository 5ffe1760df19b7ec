"""The curve of a compressor that heeds a budget, against the sizes it must have."""

import jax
import numpy as np
import pytest

from fedjax_comp.compress import budgeted_top_k, eden_fixed_rate, ladder
from fedjax_comp.compress.budget.ladder import rung_bits
from fedjax_comp.keys import make_key
from fedjax_comp.network.curve import curve_of, measure_curve
from fedjax_comp.network.devices import Device
from fedjax_comp.network.steering import steered
from fedjax_comp.wire.codes.fixed_width import bit_width

HOST = Device("host", 1e9, 1e9, 1.0)
UPDATE = {"w": jax.random.t(make_key(0), 3.0, (500,))}


@pytest.mark.thorough
def test_the_curve_of_a_ladder_has_its_rungs():
    rungs = tuple(map(eden_fixed_rate, (0.5, 1, 4)))
    measured = measure_curve(steered(ladder(*rungs)), UPDATE, HOST)
    curve, codec = curve_of(measured, 500)
    assert curve.bits.tolist() == [b + bit_width(3) for b in rung_bits(rungs, UPDATE)]
    # EDEN's error is that of a rotated vector, whatever the update.
    assert curve.errors[1] == pytest.approx(np.pi / 2 - 1, rel=0.15)
    assert np.all(np.diff(curve.errors) < 0)
    assert len(codec.encode) == len(codec.decode) == 3


def test_the_curve_of_a_sparsifier_is_the_energy_it_leaves_out():
    measured = measure_curve(budgeted_top_k(1.0), UPDATE, HOST)
    curve, _ = curve_of(measured, 500)
    energies = np.sort(np.square(np.asarray(UPDATE["w"], np.float64)))
    left = np.concatenate([[0.0], np.cumsum(energies)]) / energies.sum()
    header, each = 2 * 9, 32 + 9
    kept = (curve.bits - header) / each
    assert np.all(kept == kept.round())
    np.testing.assert_allclose(
        curve.errors, [left[500 - int(k)] for k in kept], rtol=1e-5
    )
