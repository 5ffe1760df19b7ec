"""Whether a compressor has the error and the mean that it declares, on draws of it.

Every bound is valid whatever the distribution of the errors is, and false alarms have a
chance below `ALARM` for each pair of a compressor and an input. Fewer than 200 pairs
are random: below 1e-6 together.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from fedjax_comp.base import make_context
from tests.concentration import mean_radius
from tests.conformance.compressor_bounds import Entry
from tests.conformance.compressor_checks import HINT, ROUNDING, SHAPE, inputs, send

TRIALS = 1 << 16
SCALE_FAULT = 0.02
"""A factor of one more or less than this is caught in every unbiased compressor."""
ALARM = 4e-9


def check_errors(entry: Entry) -> None:
    """The declared error and bias, on adversarial inputs.

    In every draw the error is at most `w`. Hence its mean exceeds `c` by more than
    `w sqrt(log(2 / a) / 2T)` with a chance of at most `a / 2` (Hoeffding), and so do
    the `n + 1` means below by what `mean_radius` says.
    """
    compressor = entry.make()
    state = compressor.init(jnp.zeros(SHAPE))
    # Shared noise is that of sketches and projections, and varies most.
    trials = 2 * TRIALS if entry.shared else TRIALS if entry.draws else 2
    trials //= entry.fewer_draws
    finest = np.inf

    def one(key: jax.Array, x: jax.Array) -> jax.Array:
        return send(compressor, make_context(key, 0), x, state)[1]

    random = entry.shared or entry.draws
    draw = jax.jit(jax.vmap(one, in_axes=(0, None)) if random else one)

    def draws(key: jax.Array, x: jax.Array) -> npt.NDArray[np.float64]:
        keys = jax.random.split(key, trials)
        decoded = draw(keys, x) if random else [draw(key, x) for key in keys]
        return np.asarray(decoded, np.float64)

    n = int(np.prod(SHAPE))
    mean_error, worst_error = entry.mean_error(n), entry.worst_error(n)
    for name, value in inputs().items():
        x = jnp.asarray(value, jnp.float32)
        exact = np.asarray(x, np.float64).ravel()
        decoded = draws(jax.random.key(11), x)
        # Both in units of the input's norm.
        norm = np.linalg.norm(exact)
        unit, off = exact / norm, (decoded.reshape(trials, n) - exact) / norm
        errors = np.sum(off**2, axis=1)
        ceiling = worst_error * (1 + ROUNDING) + ROUNDING**2
        assert errors.max() <= ceiling, f"{name}: {errors.max()} > {ceiling}"
        slack = worst_error * np.sqrt(np.log(2 / ALARM) / (2 * trials))
        ceiling = mean_error * (1 + ROUNDING) + ROUNDING**2 + slack
        assert errors.mean() <= ceiling, f"{name}: {errors.mean()} > {ceiling}"
        if entry.unbiased:
            radius = _check_unbiased(name, unit, off, np.sqrt(worst_error))
            finest = min(finest, radius)
    if entry.unbiased:
        assert finest <= 0.8 * SCALE_FAULT, f"a bias of {finest} would pass"


def _check_unbiased(
    name: str,
    unit: npt.NDArray[np.float64],
    off: npt.NDArray[np.float64],
    largest: float,
) -> float:
    """No mean of the errors leaves 0, along the input or in a coordinate.

    What a wrong scale does is all along the input, where the mean over all draws and
    coordinates is one number: `<x, mean C(x)> / ||x||^2`, which is to be 1.

    Args:
      name: of the input, for the message.
      unit: the input, `[n]`, of norm 1.
      off: the errors, `[T, n]`.
      largest: norm of an error, at most.

    Returns:
      What a bias along the input would have had to exceed.
    """
    means = np.concatenate([(off @ unit)[:, None], off], axis=1)
    radius = mean_radius(means, 2 * largest, alarm=ALARM / 2 / means.shape[1])
    bias = np.abs(means.mean(axis=0))
    assert bias[0] <= radius[0] + ROUNDING, (
        f"{name}: bias {bias[0]} > {radius[0]}{HINT if name == 'tiny' else ''}"
    )
    worst = np.argmax(bias - radius)
    assert bias[worst] <= radius[worst] + ROUNDING, (
        f"{name}: bias {bias[worst]} > {radius[worst]} in coordinate {worst - 1}"
    )
    return float(radius[0] + ROUNDING)
