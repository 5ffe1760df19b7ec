"""Flags of the FedDLR experiment: those of one run, and the pipelines."""

from absl import flags

from experiments.fed_avg.flags import define as define_fed_avg
from fedjax_comp.experiment.flags import without

DENSE = "dense: identity() | identity()"
FOUR_BITS = "flattened(chain(stochastic_quantize(levels=16), entropy_coded()))"
TOP_K = "chain(top_k(0.01), entropy_coded())"
EIGHT_BITS = "chain(stochastic_quantize(levels=256), entropy_coded())"


def both(compressor: str) -> str:
    """The same compressor on both links."""
    return f"{compressor} | {compressor}"


def coded(step: float) -> str:
    """The leading directions of what changed, to each client what it has not heard."""
    links = f"error_feedback(coded_low_rank({step})) | coded_low_rank({step})"
    return f"{links} | fed_avg(unicast=True)"


BASELINES = (
    DENSE,
    f"8bit: {both(EIGHT_BITS)}",
    f"4bit: {both('chain(stochastic_quantize(levels=16), entropy_coded())')}",
    f"ef-top-k-1-down-4bit: error_feedback({TOP_K}) | {FOUR_BITS}",
    f"ef-power-sgd-4-down-4bit: error_feedback(power_sgd(4)) | {FOUR_BITS}",
    f"eden-half-down-4bit: eden_entropy_coded(0.5) | {FOUR_BITS}",
    f"coded-low-rank-2-unicast: {coded(2.0)}",
    f"coded-low-rank-4-unicast: {coded(4.0)}",
)
"""`NAME: UPLINK | DOWNLINK [| ALGORITHM]`; the first is what all are held against."""

OTHER_MODELS = ("fed-para-12: fed_para(cnn(), rank=12) | identity() | identity()",)
"""`NAME: MODEL | UPLINK | DOWNLINK` under FedAvg: models that are few numbers."""

ENERGIES = (0.99, 0.95, 0.9)

RANK_16 = both(f"chain(low_rank(16), {EIGHT_BITS[6:]}")
TRUNCATED = (
    *(
        f"fed-dlr-{energy}".replace("0.", "")
        + f": {both(f'truncation({energy}, max_rank=16)')}"
        for energy in ENERGIES
    ),
    "up-alone-95: truncation(0.95, max_rank=16) | identity()",
    "down-alone-95: identity() | truncation(0.95, max_rank=16)",
    f"rank-16-8bit: {RANK_16}",
    f"rank-16-8bit-factored: {RANK_16} | fed_dlr(factor_rank=16)",
    f"rank-16-separable: {both('chain(low_rank(16), separable(0.2))')}",
)
"""`NAME: UPLINK | DOWNLINK` under FedDLR; the fourth and fifth are its two halves."""

QUICK_TRUNCATED = (f"fed-dlr-95: {both('truncation(0.95)')}",)


def define_run() -> flags.FlagValues:
    """The flags of one run, one pipeline, not yet parsed."""
    # FedDLR clips nothing and adds no noise.
    privacy = ("dp_clip", "dp_epsilon", "dp_noise_multiplier", "dp_delta")
    values = without(define_fed_avg(), *privacy)
    for name, value in DEFAULTS.items():
        values.set_default(name, value)
    values["algorithm"].help = "Of --pipeline, where none is named; a Python call."
    flags.DEFINE_integer(
        "start_rank",
        16,
        "FedDLR: rank of the matrices that training starts from (0: full).",
        flag_values=values,
        lower_bound=0,
    )
    flags.DEFINE_bool(
        "factored",
        False,
        "FedDLR: clients train the factors, not the matrices.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "compact_energy",
        1 - 1e-6,
        "What a layer of the compact model keeps of its energy.",
        flag_values=values,
        lower_bound=1e-6,
        upper_bound=1.0,
    )
    flags.DEFINE_integer(
        "cut_rank",
        16,
        "Rank that every model is cut to after training, to compare with.",
        flag_values=values,
        lower_bound=1,
    )
    return values


def define() -> flags.FlagValues:
    """All flags of `python -m experiments.fed_dlr`, not yet parsed."""
    values = define_run()
    flags.DEFINE_multi_string(
        "pipeline",
        list(BASELINES),
        "NAME: UPLINK | DOWNLINK [| ALGORITHM], under FedAvg; may be repeated.",
        flag_values=values,
    )
    flags.DEFINE_multi_string(
        "truncated",
        list(TRUNCATED),
        "NAME: UPLINK | DOWNLINK [| ALGORITHM [| START_RANK]], under FedDLR; may be "
        "repeated.",
        flag_values=values,
    )
    flags.DEFINE_multi_string(
        "other_model",
        list(OTHER_MODELS),
        "NAME: MODEL | UPLINK | DOWNLINK [| ALGORITHM], under FedAvg; may be repeated.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "truncated_rounds",
        80,
        "Rounds of FedDLR, which are the cheaper ones.",
        flag_values=values,
        lower_bound=1,
    )
    return values


DEFAULTS = {
    "dataset": "mnist",
    "model": "cnn()",
    "num_clients": 30,
    "partition": "iid(size=400)",
    "cohort_size": 5,
    "batch_size": 20,
    "num_rounds": 40,
    "eval_every": 4,
    "checkpoint_every": 0,
}
"""Where they differ from those of one FedAvg run. A client is met some seven times, so
that what it remembers is used. A run takes a minute or two, so it is done anew and not
resumed; the memories of error feedback would make large files."""

QUICK = {
    "dataset": "digits",
    "model": "cnn((8, 16), hidden=32)",
    "num_clients": 20,
    "partition": "iid()",
    "batch_size": 10,
    "client_optimizer": "sgd(0.3)",
    "num_rounds": 20,
    "truncated_rounds": 40,
    "eval_every": 10,
    "audit_every": 20,
    "start_rank": 8,
    "pipeline": [DENSE],
    "other_model": [],
    "truncated": list(QUICK_TRUNCATED),
}
"""What `--quick` sets unless it is given by hand."""
