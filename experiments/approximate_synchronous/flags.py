"""Flags of the comparison of protocols among data centres."""

from absl import flags

from fedjax_comp.experiment.flags import CONDITIONS, training_flags, without
from fedjax_comp.experiment.problem import define_validation


def define_run() -> flags.FlagValues:
    """All flags of one protocol's own run; periods count its rounds."""
    values = training_flags(
        model="mlp(64)",
        batch_size=16,
        client_optimizer="sgd(0.3)",
        eval_every=10,
        checkpoint_every=0,
    )
    # A protocol has its own links; centres are timed on links between them.
    without(values, "uplink", "downlink", "num_rounds", *CONDITIONS)
    text, whole, number = flags.DEFINE_string, flags.DEFINE_integer, flags.DEFINE_float
    text("dataset", "mnist", "Data set: mnist, digits, ...", flag_values=values)
    text("partition", "iid()", "How examples are split.", flag_values=values)
    text("protocol", "synchronous()", "The protocol.", flag_values=values)
    whole("num_rounds", 400, "Rounds.", flag_values=values, lower_bound=1)
    whole(
        "num_updates",
        400,
        "Local updates of each centre.",
        flag_values=values,
        lower_bound=1,
    )
    whole(
        "num_clients",
        11,
        "Data centres, K; 11 unless --bandwidth is given.",
        flag_values=values,
        lower_bound=2,
    )
    number(
        "lan_mbps",
        96.0,
        "Bandwidth of a local network, Mbit/s.",
        flag_values=values,
        lower_bound=1e-9,
    )
    number(
        "nearest_ratio",
        15.0,
        "How many times less two regions have at the smallest distance.",
        flag_values=values,
    )
    number(
        "farthest_ratio",
        60.0,
        "How many times less at the largest distance.",
        flag_values=values,
    )
    text(
        "bandwidth",
        "",
        "CSV file of K rows of K bandwidths, Mbit/s, in place of the regions.",
        flag_values=values,
    )
    number(
        "compute_seconds",
        0.1,
        "For which a centre computes one local update.",
        flag_values=values,
        lower_bound=0.0,
    )
    define_validation(values)
    return values


def define() -> flags.FlagValues:
    """All flags of `python -m experiments.approximate_synchronous`."""
    values = define_run()
    without(values, "num_rounds", "protocol", "stop_at_target")
    flags.DEFINE_multi_string(
        "protocol",
        list(PROTOCOLS),
        "NAME: PROTOCOL [| PARTITION]; may be repeated.",
        flag_values=values,
    )
    values.set_default("target_accuracy", 0.93)
    values["eval_every"].help = "Updates between evaluations."
    values["audit_every"].help = "Updates between audits (0: none)."
    values["checkpoint_every"].help = "Updates between checkpoints (0: the last)."
    return values


PROTOCOLS = (
    "synchronous: synchronous()",
    "fedavg-10: fed_avg(10)",
    "topk-1: top_k(0.01)",
    "topk-3: top_k(0.03)",
    "largest-1: largest(0.01)",
    "largest-3: largest(0.03)",
    "largest-5: largest(0.05)",
    "gaia-1: gaia(0.01)",
    "gaia-20: gaia(0.2)",
    "gaia-50: gaia(0.5)",
    "gaia-100: gaia(1.0)",
    "gaia-20-waits: gaia(0.2, delay=0)",
    "gaia-50-waits: gaia(0.5, delay=0)",
    "gaia-20-hubs: gaia(0.2, hubs=True)",
    "synchronous-skew: synchronous() | shards(1)",
    "fedavg-10-skew: fed_avg(10) | shards(1)",
    "gaia-20-skew: gaia(0.2) | shards(1)",
    "gaia-50-skew: gaia(0.5) | shards(1)",
    "largest-3-skew: largest(0.03) | shards(1)",
)
"""The first is what the others are held against."""

_QUICK_NAMES = ("synchronous", "largest-3", "gaia-20", "gaia-20-skew")

QUICK = {
    "protocol": [text for text in PROTOCOLS if text.partition(":")[0] in _QUICK_NAMES],
    "dataset": "digits",
    "model": "mlp(16)",
    "num_updates": 60,
    "target_accuracy": 0.8,
}
"""What `--quick` sets unless it is given by hand."""
