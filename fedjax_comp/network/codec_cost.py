"""What compressors cost: measured on this machine, and kept as JSON beside a run.

A cost is XLA's count of operations and bytes, calibrated by the seconds that the
compiled encoder and decoder really take (`fedjax_comp.network.devices`).
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp import checks, strict_json
from fedjax_comp.base import Bits, Compressor, PyTree, make_context
from fedjax_comp.hooks import Hook, Live
from fedjax_comp.keys import make_key
from fedjax_comp.network.devices import NOTHING, Cost, Device, calibrated
from fedjax_comp.network.setting import Codec
from fedjax_comp.run_directory import (
    Json,
    RunDirectoryError,
    read_json,
    write_json,
)
from fedjax_comp.strict_json import NUMBER
from fedjax_comp.training import TrainState
from fedjax_comp.wire.accounting import num_bits
from fedjax_comp.wording import one_line

COSTS = "costs.json"
_COST = {"flops": NUMBER, "bytes": NUMBER, "factor": NUMBER}
REPEATS = 20


def read_or_measure(path: Path, links: Mapping[str, Compressor], like: PyTree) -> Json:
    """The costs of each link's compressor: read when there, else measured.

    Nothing is written: the hook `costs_kept` does that once the run has begun, so that
    a resumed run goes by the same clock.

    Args:
      path: of the file.
      links: by name.
      like: the model.

    Returns:
      `{"host": {...}, "links": {name: [encode, decode]}}`, JSON-able.

    Raises:
      RunDirectoryError: for a file that cannot be read, is of another format or does
        not hold costs.
    """
    if path.is_file():
        measured = read_json(path, {"links": dict})
        for name, costs in measured["links"].items():
            if not isinstance(costs, list) or len(costs) != 2:
                raise RunDirectoryError(f"Expected two costs of link {name} in {path}.")
            for cost in costs:
                check_cost(path, cost)
        return measured
    host = host_device()
    return {
        "host": dataclasses.asdict(host),
        "links": {
            name: [dataclasses.asdict(cost) for cost in codec_cost(link, like, host)]
            for name, link in links.items()
        },
    }


def check_cost(path: Path, value: object) -> None:
    """Refuses what is not a `Cost` as JSON, read from `path`.

    Raises:
      RunDirectoryError: for anything but three finite numbers of at least 0.
    """
    try:
        for name, number in strict_json.check_fields(value, _COST).items():
            if name not in _COST:
                raise ValueError(f"Expected {', '.join(_COST)}, got {name!r}.")
            checks.not_negative(name, number)
    except ValueError as error:
        raise RunDirectoryError(
            f"{path} does not hold the costs of compressors: {one_line(error)}."
        ) from error


def codecs_of(measured: Json) -> dict[str, Codec]:
    """The costs by link, from what `read_or_measure` returned."""
    return {
        name: Codec((Cost(**encode),), (Cost(**decode),))
        for name, (encode, decode) in measured["links"].items()
    }


def costs_kept(measured: Json) -> Hook:
    """Writes `costs.json` when a run begins that has none."""

    def begin(live: Live, state: TrainState) -> TrainState:
        path = live.directory.path / COSTS
        if not path.exists():
            write_json(path, measured)
        return state

    return Hook(begin=begin)


def fixed_bytes(link: Compressor, like: PyTree) -> int | None:
    """The bytes of a link's message where they are known from shapes, else None."""

    def length(tree: PyTree) -> Bits:
        state = link.init(tree)
        context = make_context(make_key(0), 0)
        return num_bits(link.encode(context, tree, state.sender)[0])

    try:
        bits = jax.eval_shape(length, like)
    except ValueError:
        return None  # what travels there has not the shape of the model
    return None if bits.variable else -(-bits.fixed // 8)


def codec_cost(link: Compressor, like: PyTree, host: Device) -> tuple[Cost, Cost]:
    """Costs of encoding and decoding, by XLA's analysis, calibrated by measurement.

    Args:
      link: the compressor.
      like: the tree that travels; a random one of its shapes is encoded.
      host: what this machine reaches.

    Returns:
      The two costs; nothing for a link on which the model does not travel.
    """
    try:
        encode, decode, _ = codec_measures(link, like, host)
    except ValueError:
        return NOTHING, NOTHING
    return encode, decode


def codec_measures(
    link: Compressor, like: PyTree, host: Device
) -> tuple[Cost, Cost, float]:
    """As `codec_cost`, and `||C(x) - x||^2 / ||x||^2` of the Gaussian encoded.

    Raises:
      ValueError: when the model cannot travel there.
    """
    leaves, structure = jax.tree.flatten(like)
    random = np.random.default_rng(0)
    numbers = [
        jnp.asarray(random.normal(size=x.shape), x.dtype)
        if jnp.issubdtype(x.dtype, jnp.floating)
        else x
        for x in leaves
    ]
    tree = jax.tree.unflatten(structure, numbers)
    context = make_context(make_key(1), 0)
    state = link.init(tree)
    encode = jax.jit(link.encode).lower(context, tree, state.sender).compile()
    payload, _ = encode(context, tree, state.sender)
    decode = jax.jit(link.decode).lower(context, payload, state.receiver).compile()
    decoded, _ = decode(context, payload, state.receiver)
    error, energy = 0.0, 0.0
    for x, y in zip(numbers, jax.tree.leaves(decoded), strict=True):
        sent, got = np.asarray(x, np.float64), np.asarray(y, np.float64)
        error, energy = error + np.sum((sent - got) ** 2), energy + np.sum(sent**2)
    return (
        _cost(encode, (context, tree, state.sender), host),
        _cost(decode, (context, payload, state.receiver), host),
        float(error / max(energy, 1e-300)),
    )


def _cost(compiled: jax.stages.Compiled, arguments: tuple, host: Device) -> Cost:
    analysis = compiled.cost_analysis() or {}
    seconds = fastest(lambda: jax.block_until_ready(compiled(*arguments)))
    return calibrated(
        max(0.0, analysis.get("flops", 0.0)),
        max(0.0, analysis.get("bytes accessed", 0.0)),
        seconds,
        host,
    )


def host_device() -> Device:
    """What this machine reaches: a matrix product and a copy, the best of several."""
    size = 512
    x = jnp.ones((size, size), jnp.float32)
    multiply = jax.jit(jnp.dot)
    jax.block_until_ready(multiply(x, x))
    product = fastest(lambda: jax.block_until_ready(multiply(x, x)))
    source, target = np.ones(1 << 23, np.float32), np.empty(1 << 23, np.float32)
    copy = fastest(lambda: np.copyto(target, source))
    return Device("host", 2.0 * size**3 / product, 2.0 * source.nbytes / copy, 0.0)


def fastest(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """Seconds of the fastest of several calls."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)
