"""Flags of the comparison of split learning with learning whole models."""

from absl import flags

from experiments.split_learning.seconds import define_links
from fedjax_comp.experiment.flags import CONDITIONS, training_flags, without


def define_run() -> flags.FlagValues:
    """All flags of one method's own run; a round is an epoch of all clients."""
    values = training_flags(
        model="cnn((8, 16), hidden=48)",
        batch_size=12,
        client_optimizer="sgd(0.1)",
        num_rounds=4,
        checkpoint_every=0,
        execution="scanned()",
    )
    # A client has many messages in a round, of which the clock times one.
    without(values, *CONDITIONS)
    text, whole = flags.DEFINE_string, flags.DEFINE_integer
    text("dataset", "mnist", "Data set: mnist, digits, ...", flag_values=values)
    text("partition", "iid()", "How examples are split.", flag_values=values)
    text("method", "fed_avg()", "The method.", flag_values=values)
    whole("num_clients", 10, "Clients, K.", flag_values=values, lower_bound=1)
    whole(
        "num_train",
        6_000,
        "Training examples that are used, the first ones (0: all).",
        flag_values=values,
        lower_bound=0,
    )
    return values


def define() -> flags.FlagValues:
    """All flags of `python -m experiments.split_learning`; periods count epochs."""
    values = define_run()
    without(values, "method", "num_clients", "target_accuracy", "stop_at_target")
    flags.DEFINE_multi_string(
        "method",
        list(METHODS),
        "NAME: METHOD [| UPLINK | DOWNLINK]; may be repeated.",
        flag_values=values,
    )
    flags.DEFINE_multi_integer(
        "num_clients",
        [10, 100, 500],
        "Numbers of clients, K; may be repeated.",
        flag_values=values,
    )
    define_links(values)
    flags.DEFINE_integer(
        "leakage_examples",
        400,
        "Test examples of which the leakage is measured (0: none).",
        flag_values=values,
        lower_bound=0,
    )
    values["num_rounds"].help = "Epochs."
    values["audit_every"].help = "Epochs between audits of messages (0: none)."
    return values


METHODS = (
    'split: vanilla("Conv_1")',
    "fedavg: fed_avg()",
    "sgd: large_batch(10, rate=0.2)",
    'ushaped: u_shaped("Conv_1", "Dense_1")',
    (
        'split-4bit: vanilla("Conv_1") | stochastic_quantize(levels=16) | '
        "stochastic_quantize(levels=16)"
    ),
    'split-nopeek: vanilla("Conv_1", no_peek=0.5)',
)
"""`split`, `fedavg` and `sgd` are those of the published tables."""

QUICK = {
    "method": [METHODS[0], METHODS[1], METHODS[4]],
    "num_clients": [5, 120],
    "dataset": "digits",
    "model": "cnn((4, 6), hidden=16)",
    "num_rounds": 2,
    "leakage_examples": 100,
    "audit_every": 2,
}
"""What `--quick` sets unless it is given by hand."""
