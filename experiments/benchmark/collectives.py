"""Bytes that leave a device in compressed means, as compiled and as counted.

    python -m experiments.benchmark.collectives
    python -m experiments.benchmark.collectives --compile_for=tpu:v5e:2x2

Each line is a mean of gradients, one from each device. It has the bytes in the compiled
program's collectives beside those of the traffic that the mean returns, both relative
to a dense all-reduce, and the error of the mean. A second table has the cost of
packing. For a target other than this machine, programs are compiled and not run.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from absl import app, flags
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.benchmark.accelerator_targets import HERE, target_of
from experiments.benchmark.hlo_cost import Program
from fedjax_comp.base import PyTree
from fedjax_comp.collectives import (
    Collective,
    Exchanged,
    collective_mean,
    power_sgd_mean,
    sharded_mean,
)
from fedjax_comp.compress import identity
from fedjax_comp.execution import CLIENTS_AXIS
from fedjax_comp.experiment.expressions import build
from fedjax_comp.experiment.main import UsageError
from fedjax_comp.keys import make_key
from fedjax_comp.wire.fields import Symbols
from fedjax_comp.wire.payload_words import from_words, num_words, to_words
from fedjax_comp.wire.traffic import totals

FLAGS = flags.FLAGS
SHAPES = {
    "2nn": ((784, 200), (200,), (200, 200), (200,), (200, 10), (10,)),
    "small": ((40, 25), (25,)),
}
"""Of a gradient's leaves: McMahan et al.'s network, and one to try the script with."""

COMPRESSORS = (
    "identity()",
    "to_dtype('bfloat16')",
    "to_dtype('float8_e4m3fn', scaled=True)",
    "stochastic_quantize(levels=256)",
    "stochastic_quantize(levels=16)",
    "chain(rotate(), stochastic_quantize(levels=16))",
    "natural_compression()",
    "error_feedback(scaled_sign())",
    "error_feedback(top_k(0.01))",
    "random_k(0.05, shared=True)",
    "flattened(count_sketch(rows=3, columns=3000))",
)


def define_flags() -> None:
    """Defines this script's flags; called once, when it is run."""
    flags.DEFINE_string("compile_for", HERE, "'here', or 'tpu:CHIP:TOPOLOGY'.")
    flags.DEFINE_integer("cpu_devices", 4, "Devices made of this CPU.", lower_bound=1)
    flags.DEFINE_enum("gradient", "2nn", list(SHAPES), "Whose shapes are averaged.")
    flags.DEFINE_multi_string(
        "compressor", list(COMPRESSORS), "A compressor, as a call."
    )
    flags.DEFINE_multi_integer("width", [1, 3, 4, 8, 11], "Bits of packed symbols.")
    flags.DEFINE_integer("packed", 1 << 20, "Symbols that are packed.", lower_bound=32)
    flags.DEFINE_multi_integer("rank", [1, 4], "Ranks of power_sgd_mean.")


class Line(NamedTuple):
    """What is known of one mean.

    Attributes:
      compiled: bytes that leave a device, on average, by the program's text.
      counted: the same by the traffic that it returns; None where it did not run.
      filling: bytes in `counted` that only fill words.
      error: `||mean - exact||^2 / ||exact||^2`; None where it did not run.
      kinds: of collectives.
    """

    compiled: float
    counted: float | None
    filling: float | None
    error: float | None
    kinds: str


def means(compressors: Sequence[str], ranks: Sequence[int]) -> Mapping[str, Collective]:
    """The means that are compared; the first is `jax.lax.pmean` in all but name."""
    axis = CLIENTS_AXIS
    found = {"dense all-reduce": collective_mean(identity(), axis_name=axis)}
    for text in compressors:
        compressor = build("compressor", text)
        plain = text == "identity()"
        make = sharded_mean if plain else collective_mean
        found[text] = make(compressor, axis_name=axis)
    for rank in ranks:
        found[f"power_sgd_mean({rank})"] = power_sgd_mean(rank, axis_name=axis)
    return found


def gradients(shapes: Sequence[tuple[int, ...]], width: int) -> list[jax.Array]:
    """A gradient a device, `[w, ...]`: half of it common, half its own."""
    found = []
    for i, shape in enumerate(shapes):
        common, own = jax.random.split(jax.random.fold_in(make_key(0), i))
        shared = jax.random.normal(common, shape, jnp.float32)
        found.append(
            shared[None] + jax.random.normal(own, (width, *shape), jnp.float32)
        )
    return found


def measure(collective: Collective, mesh: Mesh, here: bool) -> Line:
    """Compiles one mean, reads what it sends, and runs it where that is possible."""
    width = mesh.devices.size
    everywhere, split = PartitionSpec(), PartitionSpec(CLIENTS_AXIS)
    like = [jax.ShapeDtypeStruct(s, jnp.float32) for s in SHAPES[FLAGS.gradient]]

    def step(
        key: jax.Array, tree: PyTree, state: PyTree
    ) -> tuple[PyTree, PyTree, Exchanged]:
        return collective.mean(key, [x[0] for x in tree], state)

    program = jax.jit(
        jax.shard_map(
            step,
            mesh=mesh,
            in_specs=(everywhere, split, split),
            out_specs=(everywhere, split, split),
            check_vma=False,  # any compressor may be asked for, with loops of any kind
        )
    )
    stacked = [jax.ShapeDtypeStruct((width, *x.shape), x.dtype) for x in like]
    state = jax.eval_shape(lambda: collective.init(like, width))
    key = jax.eval_shape(lambda: make_key(0))
    compiled = program.lower(key, stacked, state).compile()
    text = compiled.as_text()
    if text is None:
        raise RuntimeError("the compiler tells nothing of its program")
    sent = Program(text).cost.sent
    line = Line(sum(sent.values()), None, None, None, " ".join(sent))
    if not here:
        return line
    given = gradients(SHAPES[FLAGS.gradient], width)
    mean, _, exchanged = compiled(make_key(1), given, collective.init(like, width))
    exact = [jnp.mean(x, axis=0) for x in given]
    wrong = sum(float(jnp.sum((a - b) ** 2)) for a, b in zip(mean, exact, strict=True))
    return line._replace(
        counted=totals(exchanged.traffic).uplink_bytes / width,
        filling=exchanged.filling_bits / 8,
        error=wrong / sum(float(jnp.sum(x**2)) for x in exact),
    )


def packing_row(width: int, mesh: Mesh) -> str:
    """What packing costs: bytes read and written over those of numbers and words."""
    count = FLAGS.packed
    numbers = jax.ShapeDtypeStruct((count,), jnp.uint8 if width <= 8 else jnp.uint32)
    template = jax.eval_shape(lambda x: Symbols(x, 2**width), numbers)
    words = jax.ShapeDtypeStruct((num_words(template),), jnp.uint32)
    placed = NamedSharding(
        Mesh(mesh.devices.reshape(-1)[:1], mesh.axis_names), PartitionSpec()
    )
    least = numbers.size * numbers.dtype.itemsize + 4 * words.size

    def cost(function: Callable[[PyTree], PyTree], like: PyTree) -> str:
        jitted = jax.jit(function, in_shardings=placed, out_shardings=placed)
        text = jitted.lower(like).compile().as_text()
        found = Program(text or "").cost
        return f"{found.num_bytes / least:.2f} | {found.main_bytes / least:.2f}"

    packing = cost(to_words, template)
    unpacking = cost(lambda x: from_words(template, x), words)
    return f"| {width} | {packing} | {unpacking} |"


def row(name: str, line: Line, dense: float) -> str:
    """A line of the table.

    >>> row("a", Line(500.0, 500.0, 2.0, 0.25, "all-gather"), 4000.0)
    '| `a` | 500 | 500 | 2 | 0.1250 | 0.25 | all-gather |'
    """

    def cell(value: float | None, form: str) -> str:
        return "not run" if value is None else format(value, form)

    cells = [
        f"`{name}`",
        cell(line.compiled, ".10g"),
        cell(line.counted, ".10g"),
        cell(line.filling, ".10g"),
        f"{line.compiled / dense:.4f}",
        cell(line.error, ".2g"),
        line.kinds,
    ]
    return "| " + " | ".join(cells) + " |"


def main(argv: Sequence[str]) -> None:
    """Prints the table."""
    if len(argv) > 1:
        raise app.UsageError(f"Expected no argument without a flag, got {argv[1]!r}.")
    jax.config.update("jax_num_cpu_devices", FLAGS.cpu_devices)
    try:
        mesh = target_of(FLAGS.compile_for).mesh
        compared = means(FLAGS.compressor, FLAGS.rank)
    except (UsageError, ValueError, RuntimeError) as error:
        raise app.UsageError(str(error)) from error
    width = int(mesh.devices.size)
    n = sum(jnp.zeros(shape).size for shape in SHAPES[FLAGS.gradient])
    dense = 2 * (width - 1) / width * 4 * n
    print(
        f"{n} numbers on each of {width} devices of {FLAGS.compile_for}, jax "
        f"{jax.__version__}; a dense all-reduce sends {dense:.10g} bytes"
    )
    columns = (
        "mean",
        "compiled",
        "counted",
        "filling",
        "of dense",
        "error",
        "collectives",
    )
    print("| " + " | ".join(columns) + " |")
    print("|" + " --- |" * len(columns))
    for name, collective in compared.items():
        line = measure(collective, mesh, FLAGS.compile_for == HERE)
        print(row(name, line, dense), flush=True)
    print(f"\n{FLAGS.packed} symbols packed and unpacked on one of the devices")
    print("| bits | packing | in main memory | unpacking | in main memory |")
    print("|" + " --- |" * 5)
    for width in FLAGS.width:
        print(packing_row(width, mesh), flush=True)


if __name__ == "__main__":
    define_flags()
    app.run(main)
