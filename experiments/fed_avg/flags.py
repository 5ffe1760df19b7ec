"""Flags of the FedAvg experiment."""

from absl import flags

from experiments.fed_avg.privacy import define_privacy
from fedjax_comp.experiment.algorithms import OFFERED
from fedjax_comp.experiment.clients import define_clients
from fedjax_comp.experiment.flags import common_flags
from fedjax_comp.experiment.lateness import define_lateness
from fedjax_comp.experiment.problem import define_validation


def define() -> flags.FlagValues:
    """All flags of `python -m experiments.fed_avg`, not yet parsed."""
    values = common_flags()
    flags.DEFINE_float("proximal", 0.0, "FedProx's mu.", flag_values=values)
    flags.DEFINE_string(
        "algorithm",
        "fed_avg()",
        f"The algorithm, as a Python call of one of {', '.join(OFFERED)} with the "
        "arguments that no other flag tells.",
        flag_values=values,
    )
    # None and not empty, so that directories from before this flag can be resumed.
    flags.DEFINE_string(
        "controller",
        None,
        "What sets the uplink's budget every round, e.g. hardware_aware() (nothing "
        "when not given); needs --network or --devices and an uplink that heeds it.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "local_steps",
        None,
        "Local steps of every client in a round, on batches drawn with replacement, in "
        "place of --local_epochs.",
        flag_values=values,
        lower_bound=1,
    )
    flags.DEFINE_string(
        "client_schedule",
        None,
        "What the steps of clients are multiplied by, as a schedule over the rounds, "
        "e.g. cosine_decay_schedule(1.0, 100) (nothing when not given).",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "client_sampling",
        None,
        ["by_size"],
        "by_size: draw clients with chances in proportion to their examples, and let "
        "them count alike; not given: uniformly, weighted by their examples.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "augmentation",
        None,
        "What changes the images that are trained on, e.g. crop_and_flip(4) (nothing "
        "when not given).",
        flag_values=values,
    )
    define_clients(values)
    define_validation(values)
    define_lateness(values)
    define_privacy(values)
    return values


QUICK = {"num_rounds": 20, "eval_every": 5, "checkpoint_every": 10, "audit_every": 10}
"""What `--quick` sets unless it is given by hand."""
