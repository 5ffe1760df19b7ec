"""What a compressed round costs on an accelerator, compiled for it on any machine.

    python -m experiments.benchmark.accelerator --workdir=runs/tpu

The TPU's own compiler (the extra `tpu`) compiles every pipeline's round, in every
strategy, for each target of `--compile_for`, a TPU topology; nothing is run. Bytes and
FLOPs are counted from the program's text, loops multiplied out (`hlo_cost.py`), and
compared with the chip's public peaks: the roofline is the least time in which those
bytes and products can be done, not a measurement. `--compile_for=here` compiles for the
backend at hand, and `--run` also runs that program, which is a measurement.

A target that cannot be compiled is a row with its reason.
"""

import functools
import time
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import optax
from absl import flags
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.benchmark.accelerator_targets import HERE, WORKS, Work, target_of
from experiments.benchmark.compressed_round import PIPELINES
from experiments.benchmark.hlo_cost import Program
from fedjax_comp import execution
from fedjax_comp.algorithms.fed_avg import fed_avg
from fedjax_comp.base import (
    ClientBatches,
    Cohort,
    Examples,
    Execution,
    PyTree,
)
from fedjax_comp.experiment.expressions import build
from fedjax_comp.experiment.flags import run_flags
from fedjax_comp.experiment.main import UsageError
from fedjax_comp.experiment.measurements import Measurements
from fedjax_comp.experiment.outcome import claim
from fedjax_comp.experiment.pipelines import Pipeline, parse_pipelines
from fedjax_comp.keys import make_key
from fedjax_comp.run_directory import Json

GOAL_BYTES, GOAL_MEMORY, GOAL_SECONDS = 2.0, 1.3, 20.0
"""What compression may cost: bytes and temporary memory by the dense round's, and
seconds to compile."""


def define() -> flags.FlagValues:
    """All flags of `python -m experiments.benchmark.accelerator`, not yet parsed."""
    values = run_flags()
    flags.DEFINE_list(
        "compile_for",
        ["tpu:v5e:2x2"],
        "Targets, 'tpu:CHIP:TOPOLOGY' or 'here'.",
        flag_values=values,
    )
    flags.DEFINE_multi_enum(
        "model", ["2nn", "cnn"], list(WORKS), "What is trained.", flag_values=values
    )
    flags.DEFINE_multi_string(
        "pipeline",
        list(PIPELINES),
        "NAME: UPLINK | DOWNLINK [| ALGORITHM]; the first is what others are held to.",
        flag_values=values,
    )
    flags.DEFINE_multi_enum(
        "strategy",
        ["vmapped"],
        list(STRATEGIES),
        "How the cohort is mapped.",
        flag_values=values,
    )
    for name, default, meaning in (
        ("num_clients", 10, "Clients in the cohort."),
        ("examples", 100, "Examples of each client."),
        ("batch_size", 20, "Examples in a local batch."),
        ("repeats", 10, "Rounds that --run times."),
    ):
        flags.DEFINE_integer(name, default, meaning, lower_bound=1, flag_values=values)
    flags.DEFINE_bool(
        "run", False, "Also run what was compiled for 'here'.", flag_values=values
    )
    return values


STRATEGIES: Mapping[str, Callable[[Mesh], Execution]] = {
    "vmapped": lambda mesh: execution.vmapped(),
    "scanned": lambda mesh: execution.scanned(),
    "chunked": lambda mesh: execution.chunked(5),
    "sharded": lambda mesh: execution.sharded(mesh, execution.vmapped()),
}
"""All but `sharded` use one device of a target."""


def cohort_like(work: Work, values: flags.FlagValues) -> Cohort:
    """The shapes of a cohort: one epoch of full batches a client."""
    count, batch = values.num_clients, values.batch_size
    steps, total = values.examples // batch, count * values.examples

    def like(shape: tuple[int, ...], dtype: jax.typing.DTypeLike) -> PyTree:
        return jax.ShapeDtypeStruct(shape, dtype)

    return Cohort(
        Examples(
            x=like((total, *work.shape), work.dtype),
            y=like((total, *work.labels), jnp.int32),
        ),
        ClientBatches(
            client_id=like((count,), jnp.int32),
            rows=like((count, steps, batch), jnp.int32),
            mask=like((count, steps, batch), jnp.bool_),
            num_examples=like((count,), jnp.int32),
            active=like((count,), jnp.bool_),
            key=jax.eval_shape(lambda: jax.random.split(make_key(0), count)),
        ),
    )


def make_jobs(values: flags.FlagValues) -> Mapping[str, Callable[[], Json]]:
    """Every pipeline in every strategy, for each model and target."""
    if values.examples % values.batch_size:
        raise UsageError(
            f"--examples={values.examples} is no multiple of "
            f"--batch_size={values.batch_size}."
        )
    if values.run and HERE not in values.compile_for:
        raise UsageError("--run is for --compile_for=here, which is not given.")
    for name in values.compile_for:
        if name != HERE and len(name.split(":")) != 3:
            target_of(name)
    pipelines = parse_pipelines(values.pipeline, "fed_avg()")
    return {
        f"{model} {one.name} {strategy} for {target}": functools.partial(
            measure, values, target, model, one, strategy
        )
        for target in values.compile_for
        for model in values.model
        for strategy in values.strategy
        for one in pipelines
    }


def measure(
    values: flags.FlagValues,
    name: str,
    model: str,
    pipeline: Pipeline,
    strategy: str,
) -> Json:
    """Compiles one round and reads what it does."""
    target, work = target_of(name), WORKS[model]
    task, cohort = work.task(), cohort_like(work, values)
    algorithm = fed_avg(
        task,
        client_optimizer=optax.sgd(0.1),
        uplink=build("uplink", pipeline.uplink),
        downlink=build("downlink", pipeline.downlink),
        execution=STRATEGIES[strategy](target.mesh),
        population=values.num_clients,
        **build("algorithm", pipeline.algorithm).own,
    )
    key = jax.eval_shape(lambda: make_key(0))
    params = jax.eval_shape(task.init, key)
    server, client = jax.eval_shape(algorithm.init, key, params)
    clients = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((values.num_clients, *x.shape), x.dtype), client
    )
    mesh = target.mesh
    if strategy != "sharded":
        mesh = Mesh(mesh.devices.reshape(-1)[:1], mesh.axis_names)
    placed = NamedSharding(mesh, PartitionSpec())
    arguments = (key, server, clients, cohort)
    started = time.perf_counter()
    compiled = (
        jax.jit(algorithm.round, in_shardings=placed, out_shardings=placed)
        .lower(*arguments)
        .compile()
    )
    seconds = time.perf_counter() - started
    text, memory = compiled.as_text(), compiled.memory_analysis()
    if text is None or memory is None:
        raise RuntimeError(f"the compiler for {name} tells nothing of its program")
    cost = Program(text).cost
    row: Json = {
        "target": name,
        "model": model,
        "pipeline": pipeline.name,
        "strategy": strategy,
        "devices": int(mesh.devices.size),
        "compile_seconds": round(seconds, 2),
        "accessed_bytes": cost.num_bytes,
        "main_memory_bytes": cost.main_bytes,
        "matrix_flops": cost.flops,
        "temporary_bytes": memory.temp_size_in_bytes,
        "collective_bytes": sum(cost.collectives.values()),
        "collectives": " ".join(cost.collectives),
        "unknown_loops": cost.unknown_loops,
        "roofline_seconds": None,
        "round_seconds": None,
    }
    if target.peak is not None:
        row["roofline_seconds"] = max(
            cost.main_bytes / target.peak.num_bytes, cost.flops / target.peak.flops
        )
    if name == HERE and values.run:
        row["round_seconds"] = run_seconds(compiled, arguments, values.repeats, placed)
    return row


def run_seconds(
    compiled: jax.stages.Compiled,
    arguments: PyTree,
    repeats: int,
    placed: NamedSharding,
) -> float:
    """The least time of a call, on arrays of zeros: the same work as on others."""

    def zeros(like: jax.ShapeDtypeStruct) -> jax.Array:
        if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
            keys = jnp.broadcast_to(make_key(0), like.shape)
            return jax.device_put(keys, placed)
        if like.dtype == jnp.bool_:
            return jax.device_put(jnp.ones(like.shape, like.dtype), placed)
        return jax.device_put(jnp.zeros(like.shape, like.dtype), placed)

    arrays = jax.tree.map(zeros, arguments)
    jax.block_until_ready(compiled(*arrays))
    least = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(compiled(*arrays))
        least = min(least, time.perf_counter() - started)
    return least


def with_ratios(rows: Sequence[Json]) -> list[Json]:
    """The rows with bytes and memory by those of the first pipeline beside them."""
    first: dict[tuple[str, ...], Json] = {}
    found = []
    for row in rows:
        place = (row["target"], row["model"], row["strategy"])
        dense = first.setdefault(place, row)
        ratios = {
            f"{name}_ratio": round(row[f"{name}_bytes"] / dense[f"{name}_bytes"], 3)
            if dense[f"{name}_bytes"]
            else None
            for name in ("accessed", "main_memory", "temporary")
        }
        found.append({**row, **ratios})
    return found


def make_claims(rows: Sequence[Json]) -> list[Json]:
    """Compression within its goals on every row of a TPU."""
    compiled = [row for row in rows if row["target"] != HERE]

    def worst(name: str) -> float | None:
        return max(
            (row[name] for row in compiled if row[name] is not None), default=None
        )

    return [
        *claim(
            "largest ratio of bytes accessed to the first pipeline's",
            GOAL_BYTES,
            worst("accessed_ratio"),
            at_most=True,
        ),
        *claim(
            "largest ratio of temporary memory to the first pipeline's",
            GOAL_MEMORY,
            worst("temporary_ratio"),
            at_most=True,
        ),
        *claim(
            "most seconds to compile",
            GOAL_SECONDS,
            worst("compile_seconds"),
            at_most=True,
        ),
    ]


def to_line(row: Json) -> str:
    """A row as one line for the terminal."""
    roofline = row["roofline_seconds"]
    least = "" if roofline is None else f"  roofline {1e3 * roofline:8.3f} ms"
    ran = row["round_seconds"]
    return (
        f"{row['target']:<12} {row['model']:<11} {row['strategy']:<8}"
        f"{row['accessed_bytes'] / 1e9:9.3f} GB "
        f"({row['main_memory_bytes'] / 1e9:.3f} of main memory) "
        f"{row['matrix_flops'] / 1e9:9.2f} GFLOP "
        f"{row['temporary_bytes'] / 1e6:8.1f} MB temporary{least}"
        f"  compiled in {row['compile_seconds']:5.1f} s"
        + ("" if ran is None else f"  ran in {1e3 * ran:.2f} ms")
        + f"  {row['pipeline']}"
    )


COLUMNS = (
    "target",
    "model",
    "strategy",
    "pipeline",
    "devices",
    "compile_seconds",
    "accessed_bytes",
    "accessed_ratio",
    "main_memory_bytes",
    "main_memory_ratio",
    "matrix_flops",
    "temporary_bytes",
    "temporary_ratio",
    "roofline_seconds",
    "collective_bytes",
    "collectives",
    "unknown_loops",
    "round_seconds",
)
"""Of `table.csv`."""

MEASUREMENTS = Measurements(
    name="benchmark.accelerator",
    define=define,
    repeated=("compile_for", "model", "pipeline", "strategy"),
    jobs=make_jobs,
    summarise=with_ratios,
    columns=COLUMNS,
    claims=lambda measured: make_claims(measured.rows),
    title=lambda values: "Rounds compiled for accelerators",
    note="Compiled, not run, but where there are seconds of a round: bytes, products "
    "and memory are the compiler's, the roofline is of public peaks. There is no "
    "ratio, and no claim, where the first pipeline takes no temporary memory.",
    show=to_line,
)
main = MEASUREMENTS.main

if __name__ == "__main__":
    main()
