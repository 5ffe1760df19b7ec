"""Flags of the comparison: the task, the budget of tokens, the pipelines, the links."""

from absl import flags

from experiments.diloco.table import FORM, PIPELINES, QUICK
from experiments.fed_avg.flags import define as define_fed_avg
from fedjax_comp.experiment.flags import AUDITS, CONDITIONS, common_flags, without

DEFAULTS: dict[str, object] = {
    "dataset": "shakespeare",
    "model": "char_transformer(64, depth=2)",
    "client_optimizer": (
        "adamw(warmup_cosine_decay_schedule(0.0, 0.01, 30, 600, 0.0005))"
    ),
    "eval_batch_size": 250,
    "checkpoint_every": 0,
}

NOT_HONOURED = (
    *AUDITS,
    *CONDITIONS,
    "batch_size",
    "client_store",
    "cohort_size",
    "downlink",
    "eval_every",
    "local_epochs",
    "num_clients",
    "num_rounds",
    "server_optimizer",
    "stop_at_target",
    "target_accuracy",
    "uplink",
)
"""What a pipeline says itself, or the budget of tokens; clocks are of exact bytes."""

QUICK_FLAGS: dict[str, object] = {
    "dataset": "digits",
    "model": "linear()",
    "client_optimizer": "adamw(0.01)",
    "warm_optimizer": "adamw(0.01)",
    "eval_batch_size": 180,
    "pipeline": list(QUICK),
    "total_steps": 40,
    "warm_steps": 10,
    "total_batch": 32,
    "evaluations": 2,
}
"""What `--quick` sets unless it is given by hand: another task, to see it work."""


def define_run() -> flags.FlagValues:
    """The flags of one run, not yet parsed."""
    values = define_fed_avg()
    flags.DEFINE_bool("gathered", False, "No server.", flag_values=values)
    _define_task(values)
    return values


def _define_task(values: flags.FlagValues) -> None:
    for name, default, words in (
        ("total_steps", 600, "Steps of every worker, in all rounds together."),
        ("total_batch", 32, "Examples in a step, of all workers together."),
        ("evaluations", 10, "Evaluations of a run."),
        ("test_examples", 1000, "Test examples that are evaluated, evenly spread."),
    ):
        flags.DEFINE_integer(name, default, words, flag_values=values, lower_bound=1)
    flags.DEFINE_integer(
        "warm_steps",
        400,
        "Steps that one worker takes alone before, with the batches of all (0: none).",
        flag_values=values,
        lower_bound=0,
    )
    flags.DEFINE_string(
        "warm_optimizer",
        "adamw(linear_schedule(0.0, 0.01, 50))",
        "Optimizer of the warm start.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "warm_batch",
        None,
        "Examples in a step of the warm start; --total_batch by default.",
        flag_values=values,
        lower_bound=1,
    )
    flags.DEFINE_string(
        "warm_message",
        None,
        "Compressor of the model that the warm start tells; dense by default.",
        flag_values=values,
    )


def define() -> flags.FlagValues:
    """All flags of `python -m experiments.diloco`, not yet parsed."""
    taken = dict.fromkeys(NOT_HONOURED)
    values = without(common_flags(**DEFAULTS), *taken)
    _define_task(values)
    flags.DEFINE_multi_string(
        "pipeline", list(PIPELINES), f"{FORM}; may be repeated.", flag_values=values
    )
    flags.DEFINE_multi_float(
        "megabits",
        [10.0, 100.0, 1000.0, 10000.0],
        "Mbit/s of every worker's link, each way, that seconds are told for.",
        flag_values=values,
        lower_bound=1e-6,
    )
    flags.DEFINE_float(
        "flops_per_second",
        1e12,
        "FLOP/s at which a worker trains, for the seconds.",
        flag_values=values,
        lower_bound=1.0,
    )
    return values
