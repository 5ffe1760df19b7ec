"""The time that compression costs: a compressed round beside a dense one.

    python -m experiments.benchmark.compressed_round --model=cnn

All pipelines do the same local work, in one process and in turns, so that other load on
the machine affects all of them. A round is one call of the compiled program, which also
computes the lengths of all messages; it starts from the state that the round before
left, the compressors' memory included.
"""

import statistics
import time

import jax
import jax.numpy as jnp
import optax
from absl import app, flags

from experiments.benchmark.cohort_round import Round, make_cohort, take_turns
from fedjax_comp import execution, models
from fedjax_comp.algorithms.fed_avg import fed_avg
from fedjax_comp.base import Cohort
from fedjax_comp.experiment.expressions import build
from fedjax_comp.experiment.pipelines import Pipeline, parse_pipelines
from fedjax_comp.keys import make_key

FLAGS = flags.FLAGS

PIPELINES = (
    "dense: identity() | identity()",
    "top-k-1: error_feedback(top_k(0.01)) | identity()",
    "4-bit: stochastic_quantize(levels=16) | identity()",
    (
        "4-bit-coded: chain(stochastic_quantize(levels=16), entropy_coded()) "
        "| identity()"
    ),
    "eden-1: eden_fixed_rate(1) | identity()",
    "eden-1-blocks: eden_fixed_rate(1, block=4096) | identity()",
    "low-rank-4: error_feedback(low_rank(4)) | identity()",
    "randomized-4: error_feedback(randomized_low_rank(4)) | identity()",
    "separable-4: error_feedback(separable(4.0)) | identity()",
    "coded-low-rank-4: error_feedback(coded_low_rank(4.0)) | identity()",
    (
        "coded-low-rank-4-of-16: error_feedback(coded_low_rank(4.0, max_rank=16)) "
        "| identity()"
    ),
    (
        "coded-low-rank-4-of-16-history: "
        "error_feedback(coded_low_rank(4.0, max_rank=16, history=16)) | identity()"
    ),
    (
        "coded-low-rank-4-of-16-unicast: "
        "error_feedback(coded_low_rank(4.0, max_rank=16)) "
        "| coded_low_rank(4.0, max_rank=16) | fed_avg(unicast=True)"
    ),
    (
        "coded-low-rank-4-unicast: error_feedback(coded_low_rank(4.0)) "
        "| coded_low_rank(4.0) | fed_avg(unicast=True)"
    ),
)


def define_flags() -> None:
    """Defines this script's flags; called once, when it is run."""
    flags.DEFINE_enum("model", "cnn", ["cnn", "mlp"], "McMahan et al.'s CNN or 2NN.")
    flags.DEFINE_integer("num_clients", 10, "Clients in the cohort.", lower_bound=1)
    flags.DEFINE_integer("examples", 100, "Examples of each client.", lower_bound=1)
    flags.DEFINE_integer("batch_size", 20, "Examples in a local batch.", lower_bound=1)
    flags.DEFINE_integer("repeats", 10, "Rounds timed of each.", lower_bound=1)
    flags.DEFINE_integer("cpu_devices", 2, "CPU devices of the mesh.", lower_bound=1)
    flags.DEFINE_multi_string(
        "pipeline", list(PIPELINES), "NAME: UPLINK | DOWNLINK [| ALGORITHM]"
    )


def timed_round(pipeline: Pipeline, cohort: Cohort, model: models.ModelFn) -> Round:
    """A compiled round that goes on from the one before; the first has been run."""
    task = models.classification(
        model(num_classes=10), input_shape=(28, 28, 1), scale=1 / 255
    )
    count = cohort.clients.client_id.shape[0]
    algorithm = fed_avg(
        task,
        client_optimizer=optax.sgd(0.1),
        uplink=build("uplink", pipeline.uplink),
        downlink=build("downlink", pipeline.downlink),
        execution=execution.auto(),
        population=count,
        **build("algorithm", pipeline.algorithm).own,
    )
    key = make_key(0)
    server, client = algorithm.init(key, jax.jit(task.init)(key))
    server = jax.tree.map(jnp.copy, server)
    clients = jax.tree.map(
        lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), client
    )
    step = jax.jit(algorithm.round, donate_argnums=(1, 2))
    state = [server, clients]

    def run() -> float:
        start = time.perf_counter()
        server, clients, info = jax.block_until_ready(step(key, *state, cohort))
        state[:] = server, clients
        assert int(info.dropped) == 0, "a client was dropped: these are other rounds"
        return time.perf_counter() - start

    run()
    return run


def table(seconds: dict[str, list[float]]) -> str:
    """Markdown: least and median seconds, and their ratios to the first's.

    >>> print(table({"a": [1.0, 2.0, 3.0], "b": [3.0, 2.0, 8.0]}))
    | round | min s | median s | ratio of min | ratio of median |
    | --- | --- | --- | --- | --- |
    | a | 1.0000 | 2.0000 | 1.00 | 1.00 |
    | b | 2.0000 | 3.0000 | 2.00 | 1.50 |
    """
    first = next(iter(seconds.values()))
    lines = [
        "| round | min s | median s | ratio of min | ratio of median |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, values in seconds.items():
        least, middle = min(values), statistics.median(values)
        ratios = least / min(first), middle / statistics.median(first)
        cells = [
            name,
            *(f"{x:.4f}" for x in (least, middle)),
            *map("{:.2f}".format, ratios),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Expected no argument without a flag, got {argv[1]!r}.")
    jax.config.update("jax_num_cpu_devices", FLAGS.cpu_devices)
    try:
        cohort = make_cohort(FLAGS.num_clients, FLAGS.examples, FLAGS.batch_size)
        pipelines = parse_pipelines(FLAGS.pipeline, "fed_avg()")
    except ValueError as error:
        raise app.UsageError(str(error)) from error
    model = models.cnn() if FLAGS.model == "cnn" else models.mlp(200, 200)
    print(
        f"{FLAGS.model}: {FLAGS.num_clients} clients x {FLAGS.examples} examples, "
        f"batch {FLAGS.batch_size}; jax {jax.__version__} on {jax.default_backend()}, "
        f"{jax.local_device_count()} devices"
    )
    rounds = {one.name: timed_round(one, cohort, model) for one in pipelines}
    print(table(take_turns(rounds, FLAGS.repeats)))


if __name__ == "__main__":
    define_flags()
    app.run(main)
