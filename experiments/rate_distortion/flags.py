"""Flags of the rate-distortion experiment."""

from absl import flags

from experiments.rate_distortion.sources import NAMES
from experiments.rate_distortion.table import TABLE, to_text
from fedjax_comp.experiment.flags import run_flags


def define() -> flags.FlagValues:
    """All flags of `python -m experiments.rate_distortion`, not yet parsed."""
    values = run_flags()
    whole = flags.DEFINE_integer
    flags.DEFINE_multi_string(
        "compressor",
        [to_text(entry) for entry in TABLE],
        "FAMILY: unbiased|biased [slow] [matrices]: EXPRESSION; may be repeated.",
        flag_values=values,
    )
    flags.DEFINE_multi_enum(
        "source",
        ["gaussian", "lognormal", "mnist_cnn", "shakespeare_lstm"],
        list(NAMES),
        "Where vectors come from; may be repeated.",
        flag_values=values,
    )
    whole(
        "dimension",
        2**19,
        "Coordinates of a Gaussian or LogNormal vector, n.",
        flag_values=values,
        lower_bound=2,
    )
    whole(
        "num_clients",
        10,
        "Vectors, each of another client, C.",
        flag_values=values,
        lower_bound=1,
    )
    whole(
        "num_trials",
        10,
        "Times each Gaussian or LogNormal vector is sent, T.",
        flag_values=values,
        lower_bound=2,
    )
    whole(
        "num_update_trials",
        3,
        "Times each recorded update is sent.",
        flag_values=values,
        lower_bound=2,
    )
    whole(
        "update_rounds",
        5,
        "Round whose updates are recorded, where a source has no round of its own.",
        flag_values=values,
        lower_bound=1,
    )
    flags.DEFINE_string(
        "nncodec_python",
        None,
        "Python with nncodec==2.1.3, to measure NNCodec on recorded updates as well.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "eden_python",
        None,
        "Python with torch, to measure EDEN's published code on recorded updates too.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "eden_folder",
        None,
        "torch/ of EDEN's published code, for --eden_python.",
        flag_values=values,
    )
    return values


QUICK = {
    "compressor": [to_text(entry) for entry in TABLE if entry.quick],
    "source": ["gaussian", "lognormal", "digits_mlp"],
    "dimension": 2**16,
    "num_clients": 4,
    "num_trials": 4,
    "num_update_trials": 2,
    "update_rounds": 2,
}
"""What `--quick` sets unless it is given by hand."""
