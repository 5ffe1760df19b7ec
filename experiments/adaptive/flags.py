"""Flags of the adaptive experiment: those of a run, networks and methods."""

from absl import flags

from experiments.adaptive.methods import LADDER, METHODS, OF_LADDER, RUNGS
from fedjax_comp.experiment.flags import AUDITS, common_flags, without
from fedjax_comp.experiment.problem import define_validation

DEFAULTS: dict[str, object] = {
    "dataset": "digits",
    "model": "mlp(1000, 1000)",
    "partition": "dirichlet(1.0)",
    "num_clients": 30,
    "cohort_size": 10,
    "batch_size": 10,
    "client_optimizer": "sgd(0.1)",
    "downlink": "flattened(differenced(chain(rotate(), eden(1))))",
    "devices": "mixed()",
    "num_rounds": 100,
    "target_accuracy": 0.93,
    "stop_at_target": True,
    "checkpoint_every": 0,
}
"""Every round is evaluated, so that times to the target are exact to the round."""

CONDITIONS = (
    "3g: recorded()",
    "constant: constant(1.0)",
)

QUICK = {
    "model": "mlp(32)",
    "num_clients": 12,
    "cohort_size": 6,
    "num_rounds": 30,
    "target_accuracy": 0.8,
    "condition": ["3g: markov()", "constant: constant(0.2)"],
    "method": ["fixed-1", "fixed-4", "water-filling", "hardware-aware"],
    "rung": ["0.25", "1", "4"],
}
"""What `--quick` sets unless it is given by hand."""


def define_run() -> flags.FlagValues:
    """The flags of one run, not yet parsed."""
    values = without(common_flags(**DEFAULTS), *AUDITS, "uplink", "client_store")
    flags.DEFINE_string("method", "fixed-1", "What sets budgets.", flag_values=values)
    _define_rungs(values)
    define_validation(values)
    return values


def _define_rungs(values: flags.FlagValues) -> None:
    flags.DEFINE_multi_string(
        "rung",
        list(LADDER),
        f"Messages that can be chosen, ascending: {', '.join(RUNGS)}.",
        flag_values=values,
    )


def define() -> flags.FlagValues:
    """All flags of `python -m experiments.adaptive`, not yet parsed."""
    # The experiment sets links, compressor and report goal itself, and its simulated
    # links write orders into clients' states on the device.
    values = without(
        common_flags(**DEFAULTS),
        *AUDITS,
        "uplink",
        "network",
        "report_goal",
        "client_store",
    )
    flags.DEFINE_multi_string(
        "method",
        list(OF_LADDER),
        f"What sets budgets: {', '.join(METHODS)}; may be repeated.",
        flag_values=values,
    )
    flags.DEFINE_multi_string(
        "condition",
        list(CONDITIONS),
        "NAME: NETWORK; may be repeated.",
        flag_values=values,
    )
    _define_rungs(values)
    define_validation(values)
    return values
