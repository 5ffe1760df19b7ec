"""Flags of the frontier: those of one FedAvg run, and the pipelines."""

from absl import flags

from experiments.fed_avg.flags import define as define_run
from experiments.frontier.table import PIPELINES, QUICK_PIPELINES


def define() -> flags.FlagValues:
    """All flags of `python -m experiments.frontier`, not yet parsed."""
    values = define_run()
    for name, value in DEFAULTS.items():
        values.set_default(name, value)
    flags.DEFINE_multi_string(
        "pipeline",
        list(PIPELINES),
        "NAME: UPLINK | DOWNLINK [| ALGORITHM]; may be repeated.",
        flag_values=values,
    )
    return values


DEFAULTS = {
    "num_rounds": 400,
    "target_accuracy": 0.95,
    "stop_at_target": True,
    "checkpoint_every": 0,
}
"""Where they differ from those of one run. Every round is evaluated, so the bytes to
the target are exact, and a run takes seconds, so it is done anew and not resumed."""

QUICK = {
    "pipeline": list(QUICK_PIPELINES),
    "model": "linear()",
    "num_rounds": 200,
    "target_accuracy": 0.9,
}
"""What `--quick` sets unless it is given by hand."""
