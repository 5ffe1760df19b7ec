"""Flags of the comparison of dispatchers."""

from absl import flags

from fedjax_comp.experiment.flags import run_flags

DISPATCHERS = (
    "clusters: clustered()",
    "clusters-p2: clustered(2)",
    "clusters-p4: clustered(4)",
    "random: randomly()",
    "tree: partition_tree()",
    "hashing: hashed()",
)


def define() -> flags.FlagValues:
    """All flags of `python -m experiments.data_dispatch`, not yet parsed."""
    values = run_flags()
    text, whole = flags.DEFINE_string, flags.DEFINE_integer
    text("dataset", "mnist", "Data set.", flag_values=values)
    text("model", "linear()", "Each machine's model.", flag_values=values)
    text("optimizer", "adam(0.003)", "Each machine's optimizer.", flag_values=values)
    flags.DEFINE_multi_integer(
        "num_machines",
        [8, 32],
        "Machines, k; may be repeated. One machine is always measured.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_multi_string(
        "dispatcher",
        list(DISPATCHERS),
        "NAME: DISPATCHER; may be repeated.",
        flag_values=values,
    )
    for name, default, meaning in (
        ("num_train", 20_000, "Training examples, at most."),
        ("num_test", 10_000, "Test examples, at most."),
        ("epochs", 20, "Passes of each machine over its examples."),
        ("batch_size", 32, "Examples in a batch."),
        ("num_trials", 2, "Repetitions with other examples and seeds."),
    ):
        whole(name, default, meaning, flag_values=values, lower_bound=1)
    return values


QUICK = {
    "dataset": "digits",
    "num_machines": [4],
    "dispatcher": [
        "clusters: clustered()",
        "clusters-p2: clustered(2)",
        "random: randomly()",
        "tree: partition_tree()",
        "hashing: hashed()",
    ],
    "optimizer": "adam(0.01)",
    "num_trials": 2,
}
"""What `--quick` sets unless it is given by hand."""
