"""Flags of the comparison of data and gradients, and of one pipeline's own run."""

from absl import flags

from experiments.data_quantization.pipelines import PIPELINES, QUICK_PIPELINES
from fedjax_comp.experiment.flags import common_flags, without

DEFAULTS = {
    "dataset": "mnist",
    "model": "cnn()",
    "num_clients": 4,
    "cohort_size": 4,
    "batch_size": 8,
    "server_optimizer": "sgd(0.05, momentum=0.9)",
    "num_rounds": 200,
    "eval_every": 20,
    "checkpoint_every": 0,
    "audit_every": 200,
}

QUICK = {
    "dataset": "digits",
    "model": "mlp(200, 200)",
    "num_rounds": 60,
    "eval_every": 20,
    "checkpoint_every": 0,
    "audit_every": 60,
    "pipeline": list(QUICK_PIPELINES),
}
"""What `--quick` sets unless it is given by hand."""


def define_run() -> flags.FlagValues:
    """All flags of one pipeline's own run, not yet parsed."""
    values = common_flags(**DEFAULTS)
    # The method has its own links, and a round is one step of the server's optimizer.
    without(values, "uplink", "client_optimizer")
    values["audit_every"].help = "Rounds between audits (0: none); not of shipped(...)."
    text, whole = flags.DEFINE_string, flags.DEFINE_integer
    text("method", "", "What is sent, as an expression.", flag_values=values)
    whole(
        "test_examples",
        2000,
        "Test examples evaluated, the first ones (0: all).",
        flag_values=values,
        lower_bound=0,
    )
    flags.DEFINE_bool(
        "validation",
        False,
        "Evaluate on the last --test_examples, to choose a rate by; the record is of "
        "the first.",
        flag_values=values,
    )
    return values


def define() -> flags.FlagValues:
    """All flags of `python -m experiments.data_quantization`, not yet parsed."""
    values = define_run()
    # The first pipeline sets the target, once all have taken as many steps.
    without(values, "method", "target_accuracy", "stop_at_target")
    flags.DEFINE_multi_string(
        "pipeline",
        list(PIPELINES),
        "NAME: METHOD, or NAME: METHOD | OPTIMIZER of the server; may be repeated.",
        flag_values=values,
    )
    return values
