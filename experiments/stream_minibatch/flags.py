"""Flags of learning from streams."""

from absl import flags

from fedjax_comp.experiment.flags import run_flags, without

PCA = (
    "B-16: minibatch(16, discarded=0)",
    "B-160: minibatch(160, discarded=0)",
    "B-1600: minibatch(1600, discarded=0)",
    "B-16000: minibatch(16000, discarded=0)",
    "B-160-mu-160: minibatch(160, discarded=160)",
    "B-160-mu-1600: minibatch(160, discarded=1600)",
    "B-1600-paced: minibatch(1600)",
    "too-fast: minibatch(16, discarded=0, scale=1e8)",
)
SGD = (
    "exact: minibatch(160)",
    "exact-large: minibatch(1600)",
    "ring-1: consensus(ring(16), 160, rounds=1)",
    "ring-4: consensus(ring(16), 160, rounds=4)",
    "ring-16: consensus(ring(16), 160, rounds=16)",
    "torus-4: consensus(torus(4, 4), 160, rounds=4)",
    "expander-4: consensus(expander(16), 160, rounds=4)",
    "expander-qsgd: consensus(expander(16), 160, rounds=4, compressor=qsgd(15))",
)


def define() -> flags.FlagValues:
    """All flags of `python -m experiments.stream_minibatch`, not yet parsed."""
    values = without(run_flags(), "data_dir", "raw_dir")  # samples are drawn
    whole, number = flags.DEFINE_integer, flags.DEFINE_float
    flags.DEFINE_multi_string(
        "pca",
        list(PCA),
        "NAME: RULE for streaming PCA; may be repeated.",
        flag_values=values,
    )
    flags.DEFINE_multi_string(
        "sgd",
        list(SGD),
        "NAME: RULE for logistic regression; may be repeated.",
        flag_values=values,
    )
    number(
        "arriving_rate", 1e6, "Samples that arrive a second, R_s.", 0.0, None, values
    )
    number(
        "processing_rate", 1.25e5, "Samples of a node a second, R_p.", 0.0, None, values
    )
    number("message_rate", 1e4, "Rounds of messages a second, R_c.", 0.0, None, values)
    number("gap", 0.2, "Of the two leading eigenvalues, in (0, 1).", 0.0, 1.0, values)
    number("margin", 2.0, "Norm of the weights of the labels.", 0.0, None, values)
    number("pca_scale", 20.0, "Of the steps of PCA, c / (L + t).", 0.0, None, values)
    number("sgd_scale", 12.0, "Of the steps of SGD, c / (L + t).", 0.0, None, values)
    number("offset", 20.0, "L, for the curvature.", 0.0, None, values)
    number(
        "noise_offset", 2000.0, "Added to L, by B, for the noise.", 0.0, None, values
    )
    whole("dimension", 10, "Of the samples, d.", flag_values=values, lower_bound=2)
    whole(
        "num_arrivals",
        200_000,
        "Samples that arrive in all.",
        flag_values=values,
        lower_bound=1000,
    )
    whole(
        "num_trials",
        32,
        "Streams, run side by side.",
        flag_values=values,
        lower_bound=2,
    )
    return values


QUICK = {
    "pca": [
        "B-16: minibatch(16, discarded=0)",
        "B-160: minibatch(160, discarded=0)",
        "B-160-mu-1600: minibatch(160, discarded=1600)",
        "too-fast: minibatch(16, discarded=0, scale=1e8)",
    ],
    "sgd": [
        "exact: minibatch(160)",
        "ring-1: consensus(ring(16), 160, rounds=1)",
        "expander-4: consensus(expander(16), 160, rounds=4)",
    ],
    "num_arrivals": 200_000,
    "num_trials": 32,
}
"""What `--quick` sets unless it is given by hand."""
