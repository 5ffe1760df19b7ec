"""Simulated links and devices of any experiment, from its flags.

What a compressor costs is measured once, on the machine that runs the experiment, and
kept beside the run, so that a resumed run goes by the same clock.
"""

import dataclasses
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from fedjax_comp.base import Bits, Compressor, PyTree, make_context
from fedjax_comp.data.sources.loading import RAW_DATA_VARIABLE
from fedjax_comp.experiment.expressions import build
from fedjax_comp.experiment.main import UsageError
from fedjax_comp.keys import make_key
from fedjax_comp.network.clock import Policy, check_policy
from fedjax_comp.network.devices import (
    NOTHING,
    Cost,
    Device,
    calibrated,
    training_flops,
)
from fedjax_comp.network.setting import Codec, Setting
from fedjax_comp.network.simulation import Simulation
from fedjax_comp.report import Run, line_figure
from fedjax_comp.run import Problem
from fedjax_comp.run_directory import RunDirectory, write_json
from fedjax_comp.training import Invited, TrainState, next_cohort
from fedjax_comp.wire.accounting import num_bits

COSTS = "costs.json"
IDEAL = Device("ideal", 1e30, 1e30, 0.0)
REPEATS = 20


def build_simulation(
    values: flags.FlagValues, problem: Problem, directory: RunDirectory
) -> Simulation | None:
    """The simulation that the flags describe; None without a network and devices.

    Raises:
      ValueError: for flags that cannot be meant.
    """
    setting = complete_setting(values, problem, directory)
    return None if setting is None else simulate(setting, problem)


def complete_setting(
    values: flags.FlagValues, problem: Problem, directory: RunDirectory
) -> Setting | None:
    """Links, devices, and what the problem's messages cost; None without the former.

    Raises:
      ValueError: for flags that cannot be meant.
    """
    if "network" not in values:
        return None
    setting = build_setting(values, problem.num_clients, problem.params)
    if setting is None:
        return None
    costs = measured_codecs(directory.path / COSTS, problem.links, problem.params)
    up, down = problem.links.get("uplink"), problem.links.get("downlink")
    return setting._replace(
        uplink=costs.get("uplink", Codec()),
        downlink=costs.get("downlink", Codec()),
        uplink_bytes=None if up is None else fixed_bytes(up, problem.params),
        downlink_bytes=None if down is None else fixed_bytes(down, problem.params),
    )


def simulate(setting: Setting, problem: Problem) -> Simulation:
    """A simulation of a problem's own cohorts."""
    draw = jax.jit(next_cohort(problem.sample))

    def cohort_of(state: TrainState) -> Invited:
        # By value: the state moves between devices, and each place would be compiled.
        key = jax.random.wrap_key_data(
            jnp.asarray(np.asarray(jax.random.key_data(state.key))),
            impl=jax.random.key_impl(state.key),
        )
        drawn = draw(key, np.int32(state.round), problem.data)
        return jax.tree.map(np.asarray, drawn)

    return Simulation(setting, cohort_of, problem.algorithm.params)


def build_setting(
    values: flags.FlagValues, num_clients: int, params: PyTree
) -> Setting | None:
    """Links, devices and policy of the flags; None when neither is named."""
    policy = Policy(
        float("inf") if values.deadline_seconds is None else values.deadline_seconds,
        values.wanted,
    )
    if not values.network and not values.devices:
        if policy != Policy():
            raise UsageError(
                "--deadline_seconds and --wanted need links or devices to time the "
                "clients on, e.g. --network='lognormal()'."
            )
        return None
    try:
        check_policy(policy)
    except ValueError as error:
        raise UsageError(f"--deadline_seconds, --wanted: {error}") from None
    network = build("network", values.network or "constant(1e9, latency_seconds=0)")
    raw_dir = raw_directory(values)
    links = network(num_clients, values.seed, raw_dir)
    devices: Sequence[Device] = [IDEAL] * num_clients
    train = NOTHING
    if values.devices:
        devices = build("devices", values.devices)(num_clients, values.seed, raw_dir)
        size = sum(x.size for x in jax.tree.leaves(params))
        each = training_flops(size, 1, flops_per_example=values.training_flops)
        train = Cost(each, 0.0)
    return Setting(links, devices, policy, train, seed=values.seed)


def raw_directory(values: flags.FlagValues) -> Path | None:
    """Where raw files are: by the flag, else by the environment, else None."""
    named = values.raw_dir or os.environ.get(RAW_DATA_VARIABLE)
    return Path(named).expanduser() if named else None


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


# ----------------------------------------------------------------------------- costs


def measured_codecs(
    path: Path, links: dict[str, Compressor], like: PyTree
) -> dict[str, Codec]:
    """The costs of each link's compressor: read when there, else measured and written.

    Args:
      path: of the file.
      links: by name.
      like: the model.
    """
    if not path.is_file():
        host = host_device()
        write_json(
            path,
            {
                "host": dataclasses.asdict(host),
                "links": {
                    name: [
                        dataclasses.asdict(cost)
                        for cost in codec_cost(link, like, host)
                    ]
                    for name, link in links.items()
                },
            },
        )
    saved = json.loads(path.read_text(encoding="utf-8"))["links"]
    return {
        name: Codec((Cost(**encode),), (Cost(**decode),))
        for name, (encode, decode) in saved.items()
    }


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


# --------------------------------------------------------------------------- figures


def accuracy_against_time(
    runs: Sequence[Run], path: Path, *, log_x: bool = False
) -> Path:
    """Draws test accuracy against simulated seconds, one curve a run."""
    return line_figure(
        runs,
        x="simulated_seconds",
        y="test_accuracy",
        xlabel="Simulated time (s)" + (", logarithmic" if log_x else ""),
        ylabel="Test accuracy",
        path=path,
        log_x=log_x,
    )
