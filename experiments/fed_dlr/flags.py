"""Flags of the FedDLR experiment: those of one run, and the pipelines."""

from absl import flags

from experiments.fed_avg.flags import define as define_fed_avg
from fedjax_comp.experiment.flags import without

DENSE = "dense: identity() | identity()"
DOWNLINK = "chain(stochastic_quantize(levels=256), entropy_coded())"
"""Of the baselines: the model at a byte a number at most."""


def both(compressor: str) -> str:
    """The same compressor on both links."""
    return f"{compressor} | {compressor}"


BASELINES = (
    DENSE,
    f"ef-power-sgd-4: error_feedback(power_sgd(4)) | {DOWNLINK}",
    f"ef-top-k-1: error_feedback(chain(top_k(0.01), entropy_coded())) | {DOWNLINK}",
    "quantized-4bit: " + both("chain(stochastic_quantize(levels=16), entropy_coded())"),
)
"""`NAME: UPLINK | DOWNLINK` under FedAvg; the first is what all are held against."""

ENERGIES = (0.99, 0.95, 0.9, 0.8)

TRUNCATED = tuple(
    f"fed-dlr-{energy}".replace("0.", "")
    + f": {both(f'truncation({energy}, max_rank=16)')}"
    for energy in ENERGIES
)
"""`NAME: UPLINK | DOWNLINK` under FedDLR."""

QUICK_TRUNCATED = (f"fed-dlr-95: {both('truncation(0.95)')}",)


def define_run() -> flags.FlagValues:
    """The flags of one run, one pipeline, not yet parsed."""
    # FedDLR clips nothing and adds no noise.
    values = without(define_fed_avg(), "dp_clip", "dp_noise_multiplier", "dp_delta")
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
        "NAME: UPLINK | DOWNLINK, under FedDLR; may be repeated.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "truncated_rounds",
        180,
        "Rounds of FedDLR, which are the cheaper ones.",
        flag_values=values,
        lower_bound=1,
    )
    return values


DEFAULTS = {
    "dataset": "mnist",
    "model": "cnn()",
    "num_clients": 300,
    "cohort_size": 5,
    "num_rounds": 60,
    "eval_every": 10,
    "checkpoint_every": 0,
}
"""Where they differ from those of one FedAvg run. A run takes a minute or two, so it is
done anew and not resumed; the memories of error feedback would make large files."""

QUICK = {
    "dataset": "digits",
    "model": "cnn((8, 16), hidden=32)",
    "num_clients": 20,
    "client_optimizer": "sgd(0.3)",
    "num_rounds": 20,
    "truncated_rounds": 40,
    "eval_every": 10,
    "audit_every": 20,
    "start_rank": 8,
    "pipeline": [DENSE],
    "truncated": list(QUICK_TRUNCATED),
}
"""What `--quick` sets unless it is given by hand."""
