"""The cost of the host's loop: rounds a second of `run` and of its compiled program.

    python -m experiments.benchmark.run_loop --model='mlp(200, 200)'

Both run the same rounds of FedAvg on digits, in turns. `run` also writes its directory,
rows, events and progress, and evaluates and saves as the flags say. The bare
program is dispatched with as many rounds at once as `run` takes at most.
"""

import tempfile
import time

import jax
import optax
from absl import app, flags

from fedjax_comp import data, models
from fedjax_comp.algorithms.fed_avg import fed_avg
from fedjax_comp.execution import auto
from fedjax_comp.experiment.expressions import build
from fedjax_comp.experiment.main import use_host_cores
from fedjax_comp.hooks import Hook, Live
from fedjax_comp.keys import make_key
from fedjax_comp.problem import Problem, Schedule
from fedjax_comp.rounds import device_rounds
from fedjax_comp.run import MAX_ROUNDS_PER_DISPATCH, run
from fedjax_comp.run_directory import open_run
from fedjax_comp.training import (
    Dispatch,
    TrainState,
    evaluation_program,
    init_state,
    uniform_cohorts,
)

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines this script's flags; called once, when it is run."""
    flags.DEFINE_string("model", "mlp(200, 200)", "The model.")
    flags.DEFINE_string("uplink", "identity()", "Compressor of the uplink.")
    for name, default, meaning in (
        ("rounds", 1024, "Rounds of each turn."),
        ("eval_every", 256, "Rounds between evaluations."),
        ("checkpoint_every", 512, "Rounds between checkpoints."),
        ("repeats", 5, "Turns of each."),
    ):
        flags.DEFINE_integer(name, default, meaning, lower_bound=1)


def make_problem() -> Problem:
    """FedAvg on digits, 100 clients of whom 10 take part, batches of 10."""
    population = data.federate(data.load("digits"), data.iid(), num_clients=100, seed=0)
    spec = population.spec
    model = build("model", FLAGS.model)
    task = models.classification(
        model(spec.num_classes), input_shape=spec.input_shape, scale=spec.scale
    )
    algorithm = fed_avg(
        task,
        client_optimizer=optax.sgd(0.1),
        uplink=build("uplink", FLAGS.uplink),
        execution=auto(),
    )
    return Problem(
        algorithm,
        uniform_cohorts(cohort_size=10, epochs=1, batch_size=10),
        population,
        task.init(make_key(0)),
        100,
        evaluation_program(task, auto(), batch_size=180),
        population.test,
        {},
    )


def seconds_of_run(problem: Problem) -> float:
    """From the first dispatch to the end of the last, compilation left out."""
    moments: list[float] = []

    def before(live: Live, state: TrainState) -> TrainState:
        del live
        if not moments:
            moments.append(time.perf_counter())
        return state

    def finish(live: Live, params: object) -> None:
        del live, params
        moments.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        run(
            open_run(f"{folder}/run", "benchmark.run_loop", {"seed": 0}),
            problem,
            Schedule(
                FLAGS.rounds,
                eval_every=FLAGS.eval_every,
                checkpoint_every=FLAGS.checkpoint_every,
            ),
            make_key(1),
            hooks=[Hook(before=before, finish=finish)],
            show_progress=False,
        )
    return moments[-1] - moments[0]


def main(argv: list[str]) -> None:
    """Takes turns and prints rounds a second and their ratio."""
    del argv
    use_host_cores()
    problem = make_problem()
    state = init_state(make_key(1), problem.algorithm, problem.params, 100)
    step, state = device_rounds(problem, state, MAX_ROUNDS_PER_DISPATCH)
    dispatches, rest = divmod(FLAGS.rounds, MAX_ROUNDS_PER_DISPATCH)
    ours, bare = [], []
    for _ in range(FLAGS.repeats):
        started = time.perf_counter()
        dispatch: Dispatch | None = None
        for rounds in [MAX_ROUNDS_PER_DISPATCH] * dispatches + [rest] * bool(rest):
            state, dispatch = step(state, rounds)
        jax.block_until_ready((state, dispatch))
        bare.append(time.perf_counter() - started)
        ours.append(seconds_of_run(problem))
    for name, seconds in (("bare program", bare), ("run", ours)):
        print(
            f"{name:13} {FLAGS.rounds / min(seconds):8.1f} rounds/s at best, "
            f"{FLAGS.rounds / sorted(seconds)[len(seconds) // 2]:8.1f} in the median"
        )
    middle = len(ours) // 2
    print(
        f"run by the bare program: {min(bare) / min(ours):.3f} at best, "
        f"{sorted(bare)[middle] / sorted(ours)[middle]:.3f} in the median"
    )
    print(f"jax {jax.__version__}, {jax.device_count()} x {jax.default_backend()}")


if __name__ == "__main__":
    define_flags()
    app.run(main)
