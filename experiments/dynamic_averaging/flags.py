"""Flags of the comparison of averaging protocols on a stream."""

from absl import flags

from fedjax_comp.experiment.flags import training_flags, without


def define_run() -> flags.FlagValues:
    """All flags of one protocol's own run; periods count its rounds."""
    values = training_flags(
        model="mlp(64)", client_optimizer="adam(0.001)", checkpoint_every=0
    )
    text, whole = flags.DEFINE_string, flags.DEFINE_integer
    text(
        "stream",
        "digits",
        "A data set (digits, mnist, electricity, ...), 'graphical' or 'forest'.",
        flag_values=values,
    )
    whole("num_clients", 10, "Learners, K.", flag_values=values, lower_bound=1)
    whole(
        "num_updates",
        0,
        "Updates of each learner (0: one pass of the data set).",
        flag_values=values,
        lower_bound=0,
    )
    text(
        "drift",
        "none",
        "What a drift does: none, permuted_labels, rotated_images, or redrawn for "
        "'graphical' and 'forest'.",
        flag_values=values,
    )
    whole(
        "num_drifts",
        0,
        "Drifts, at random times.",
        flag_values=values,
        lower_bound=0,
    )
    text("protocol", "periodic(1)", "The protocol.", flag_values=values)
    return values


def define() -> flags.FlagValues:
    """All flags of `python -m experiments.dynamic_averaging`; periods count updates."""
    values = define_run()
    without(values, "num_rounds", "target_accuracy", "stop_at_target", "protocol")
    flags.DEFINE_multi_string(
        "protocol",
        list(PROTOCOLS),
        "NAME: PROTOCOL [| UPLINK | DOWNLINK]; may be repeated.",
        flag_values=values,
    )
    values.set_default("eval_every", 5)
    values["eval_every"].help = "Updates between evaluations."
    values["checkpoint_every"].help = "Updates between checkpoints (0: none)."
    values["audit_every"].help = "Updates between audits (0: none)."
    return values


PROTOCOLS = (
    "periodic-1: periodic(1)",
    "periodic-2: periodic(2)",
    "periodic-4: periodic(4)",
    "periodic-8: periodic(8)",
    "periodic-20: periodic(20)",
    "periodic-40: periodic(40)",
    "periodic-120: periodic(120)",
    "dynamic-tiny: dynamic(0.001)",
    "dynamic-0_02: dynamic(0.02)",
    "dynamic-0_1: dynamic(0.1)",
    "dynamic-0_5: dynamic(0.5)",
    "dynamic-2: dynamic(2.0)",
    "dynamic-8: dynamic(8.0)",
    "triple-0_5: dynamic(0.5, balancing='triple')",
    "fda-0_005: fda(0.005)",
    "fda-0_02: fda(0.02)",
    "fda-0_1: fda(0.1)",
    "fda-0_5: fda(0.5)",
    "fda-2: fda(2.0)",
    "fedavg-30: fed_avg(0.3)",
    "fedavg-50: fed_avg(0.5)",
    "fedavg-70: fed_avg(0.7)",
    "fedavg-50-8: fed_avg(0.5, every=8)",
    "fedavg-30-20: fed_avg(0.3, every=20)",
    "none: none()",
    "serial: serial()",
)
"""The first is what the others are held against."""

_QUICK_NAMES = (
    "periodic-1",
    "periodic-8",
    "dynamic-tiny",
    "dynamic-2",
    "fedavg-50",
    "none",
    "serial",
)

QUICK = {
    "protocol": [text for text in PROTOCOLS if text.partition(":")[0] in _QUICK_NAMES],
    "model": "linear()",
    "num_clients": 5,
    "batch_size": 2,
    "client_optimizer": "sgd(0.1)",
    "audit_every": 120,
}
"""What `--quick` sets unless it is given by hand."""
