"""Error, bias, bits and time of one compressor on the vectors of one source.

Errors are summed in float64 on the host. Bits are those of messages really written,
without their frame. Times are the least over all calls of the compiled `encode` and
`decode`; the first calls include compilation.
"""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from experiments.rate_distortion.sources import Source
from fedjax_comp import tree as trees
from fedjax_comp.base import Bits, Compressor, Context, PyTree, make_context
from fedjax_comp.compress.audit import bit_equal
from fedjax_comp.wire.accounting import message_bits, num_bits
from fedjax_comp.wire.message import pack_body, unpack_body


class Measurement(NamedTuple):
    """What was measured; `C` clients sent `T` messages each.

    Attributes:
      rate_bits: bits of a message by its `n`, mean over the messages written.
      vnmse: `E ||C(x) - x||^2 / ||x||^2`.
      vnmse_rescaled: the error when each message is scaled anew so that
        `<C(x), x> = ||x||^2`, as an unbiased one is on average:
        `||x||^2 ||C(x)||^2 / <C(x), x>^2 - 1`; infinite for what sends nothing of `x`.
      bias: `||mean over T of C(x) - x|| / ||x||`, root mean square over clients.
      bias_noise: what `bias` is on average when there is none, `sqrt(vnmse / T)`.
      bias_score: an estimate of the squared bias in units of its own standard error,
        Student-t with `C - 1` degrees of freedom when there is none; NaN for `C = 1`.
      nmse: `E ||mean of C(x_c) - mean of x_c||^2 / mean ||x_c||^2`.
      encode_seconds: least time of an encoding.
      decode_seconds: least time of a decoding.
      pack_seconds: least time of writing the bytes on the host.
      messages: `C T`.
      written: messages written to bytes.
      n: coordinates.
    """

    rate_bits: float
    vnmse: float
    vnmse_rescaled: float
    bias: float
    bias_noise: float
    bias_score: float
    nmse: float
    encode_seconds: float
    decode_seconds: float
    pack_seconds: float
    messages: int
    written: int
    n: int


_CERTAIN = 1e9  # standard errors: finite, so that rows and claims keep it


class MeasurementError(ValueError):
    """A compressor cannot be measured; the message is one line that says why."""


def to_vector(tree: PyTree) -> np.ndarray:
    """All coordinates end to end, float64 `[n]`."""
    leaves = [np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)]
    return np.concatenate(leaves)


def measure(
    compressor: Compressor, source: Source, key: jax.Array, *, num_trials: int
) -> Measurement:
    """Sends every vector of a source `num_trials` times, each with fresh randomness.

    A trial is a round: its clients share the round's key. A compressor with memory
    starts every message from its initial state.

    Args:
      compressor: what to measure.
      source: `C` vectors.
      key: of all randomness.
      num_trials: `T`, at least 2.

    Returns:
      The measurement.

    Raises:
      ValueError: when the compressor refuses the source, when a message is not what it
        was counted as, and when a decoded vector is not finite.
    """
    state = compressor.init(source.vectors[0])

    @jax.jit
    def encode(context: Context, vector: PyTree) -> PyTree:
        return compressor.encode(context, vector, state.sender)[0]

    @jax.jit
    def decode(context: Context, payload: PyTree) -> PyTree:
        return compressor.decode(context, payload, state.receiver)[0]

    clients, n = len(source.vectors), trees.size(source.vectors[0])
    exact = [to_vector(vector) for vector in source.vectors]
    powers = np.array([x @ x for x in exact])
    if not np.all(powers > 0):
        raise MeasurementError("a vector is all zeros: it has no relative error")
    error_sums = np.zeros((clients, n))
    squares = np.zeros((num_trials, clients))
    rescaled = np.zeros((num_trials, clients))
    cohort_squares = np.zeros(num_trials)
    encode_times, decode_times, pack_times, lengths = [], [], [], []
    writer = _Writer()
    for t in range(num_trials):
        cohort_error = np.zeros(n)
        for c, vector in enumerate(source.vectors):
            context = make_context(jax.random.fold_in(key, t), c)
            payload, seconds = _timed(encode, context, vector)
            encode_times.append(seconds)
            decoded, seconds = _timed(decode, context, payload)
            decode_times.append(seconds)
            if t == 0:
                length, seconds = writer.write(payload, check=c == 0)
                lengths.append(length)
                pack_times.append(seconds)
            received = to_vector(decoded)
            rescaled[t, c] = rescaled_error(exact[c], received)
            error = received - exact[c]
            squares[t, c] = error @ error
            error_sums[c] += error
            cohort_error += error
        cohort_squares[t] = cohort_error @ cohort_error / clients**2
    if not np.all(np.isfinite(squares)):
        raise MeasurementError("what was decoded is not finite")
    sum_squares = np.array([row @ row for row in error_sums])
    vnmse = float(np.mean(squares / powers))
    return Measurement(
        rate_bits=8 * float(np.mean(lengths)) / n,
        vnmse=vnmse,
        vnmse_rescaled=float(rescaled.mean()),
        bias=math.sqrt(float(np.mean(sum_squares / num_trials**2 / powers))),
        bias_noise=math.sqrt(vnmse / num_trials),
        bias_score=bias_score(
            sum_squares / powers, squares.sum(0) / powers, num_trials
        ),
        nmse=float(cohort_squares.mean() / powers.mean()),
        encode_seconds=min(encode_times),
        decode_seconds=min(decode_times),
        pack_seconds=min(pack_times),
        messages=num_trials * clients,
        written=len(lengths),
        n=n,
    )


def rescaled_error(x: np.ndarray, received: np.ndarray) -> float:
    """`||x||^2 ||y||^2 / <x, y>^2 - 1`: the error of `y` when scaled to be unbiased.

    It does not depend on the scale of `y`. With the least-squares scale, whose relative
    error is `e`, it is `e / (1 - e)`.

    >>> rescaled_error(np.array([1.0, 1.0]), np.array([3.0, 0.0]))
    1.0
    """
    product = float(x @ received)
    if product == 0:
        return math.inf
    return float((x @ x) * (received @ received)) / product**2 - 1


def bias_score(sum_squares: np.ndarray, squares: np.ndarray, trials: int) -> float:
    """How far the squared bias is from zero, in standard errors.

    With errors `e_1 .. e_T` of one vector, the mean of `<e_s, e_t>` over `s != t` is an
    unbiased estimate of the squared norm of the bias; its standard error is taken from
    how it varies over the clients.

    Args:
      sum_squares: `||sum_t e_t||^2 / ||x||^2` for each client, `[C]`.
      squares: `sum_t ||e_t||^2 / ||x||^2` for each client, `[C]`.
      trials: `T`.

    Returns:
      The score; NaN for one client, 0 when there is no error at all, and a billion for
      a bias that is the same for every client.

    >>> score = bias_score(np.array([8.0, 9.0]), np.array([4.0, 4.0]), trials=2)
    >>> round(score, 6)  # estimates 2 and 2.5: mean 2.25, standard error 0.25
    9.0
    """
    if len(squares) < 2:
        return math.nan
    estimates = (sum_squares - squares) / (trials * (trials - 1))
    error = float(np.std(estimates, ddof=1)) / math.sqrt(len(estimates))
    mean = float(np.mean(estimates))
    if error == 0:
        return math.copysign(_CERTAIN, mean) if mean else 0.0
    return mean / error


class _Writer:
    """Writes messages, and holds their length against what was counted."""

    def __init__(self) -> None:
        self._count = jax.jit(num_bits)

    def write(self, payload: PyTree, *, check: bool) -> tuple[int, float]:
        """Bytes of a message and the time to write them; `check` reads them again."""
        started = time.perf_counter()
        body = pack_body(payload)
        seconds = time.perf_counter() - started
        bits: Bits = self._count(payload)
        counted = -(-message_bits(bits) // 8)
        if counted != len(body):
            raise MeasurementError(f"{counted} bytes counted, {len(body)} written")
        if check:
            template = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), payload
            )
            if not bit_equal(payload, unpack_body(body, template)):
                raise MeasurementError(
                    "what is read from the bytes is not what was sent"
                )
        return len(body), seconds


def _timed(function: Callable[..., PyTree], *arguments: PyTree) -> tuple[PyTree, float]:
    started = time.perf_counter()
    result = jax.block_until_ready(function(*arguments))
    return result, time.perf_counter() - started
