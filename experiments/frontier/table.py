"""The pipelines of the frontier: to add one, add a line to one of the tables."""


def coded(*stages: str) -> str:
    """Stages on the whole update as one vector, then lossless codes."""
    return f"flattened(chain({', '.join(stages)}, entropy_coded()))"


def feedback(pipeline: str) -> str:
    """A pipeline with the memory of what it lost."""
    return f"error_feedback({pipeline})"


def uniform(levels: int, rounding: str = "stochastic") -> str:
    """Equally spaced levels between the least and the largest value."""
    return f"stochastic_quantize(levels={levels}, rounding='{rounding}')"


def changes(fraction: float) -> str:
    """The largest changes of the model since it was last heard, by all clients."""
    return f"differenced({coded(f'top_k({fraction})', uniform(16, 'nearest'))})"


DOWNLINK = "chain(stochastic_quantize(levels=256), entropy_coded())"
"""Of most: the model to one byte a number at most, then an entropy code."""

UPLINKS = {
    "uniform-8bit": coded(uniform(256)),
    "uniform-4bit": coded(uniform(16)),
    "rotated-uniform-3bit": coded("rotate()", uniform(8)),
    "ef-uniform-2bit": feedback(coded("rotate()", uniform(4, "nearest"))),
    "qsgd-64": coded("qsgd(64)"),
    "qsgd-8": coded("qsgd(8)"),
    "qsgd-1": coded("qsgd(1)"),
    "ef-sign": feedback("scaled_sign()"),
    "random-k-10": "flattened(random_k(0.1))",
    "top-k-1": coded("top_k(0.01)"),
    "ef-top-k-10": feedback(coded("top_k(0.1)")),
    "ef-top-k-1": feedback(coded("top_k(0.01)")),
    "ef-top-k-10-4bit": feedback(coded("top_k(0.1)", uniform(16, "nearest"))),
    "ef-top-k-3-4bit": feedback(coded("top_k(0.03)", uniform(16, "nearest"))),
    "ef-top-k-1-4bit": feedback(coded("top_k(0.01)", uniform(16, "nearest"))),
    "ef-top-k-03-4bit": feedback(coded("top_k(0.003)", uniform(16, "nearest"))),
    "ef-top-k-1-sign": feedback(coded("top_k(0.01)", "scaled_sign()")),
    "ef-top-k-3-sign": feedback(coded("top_k(0.03)", "scaled_sign()")),
    "eden-1": "eden_fixed_rate(1)",
    "eden-coded-half": "eden_entropy_coded(0.5)",
    "ef-trellis-half": feedback(
        "flattened(chain(rotate(), trellis(0.5, unbiased=False)))"
    ),
    "uniform-trellis-half": coded("per_client(rotate())", "uniform_trellis(0.5)"),
    "stc-1": "stc(0.01)",
    "dgc-1": "dgc(0.01)",
    "terngrad": "chain(terngrad(), entropy_coded())",
    "ef-low-rank-4": feedback("low_rank(4)"),
    "ef-low-rank-1": feedback("low_rank(1)"),
    "ef-power-sgd-2": feedback("power_sgd(2)"),
    "ef-low-rank-2-8bit": feedback(f"chain(low_rank(2), {uniform(256)})"),
    "ef-coded-low-rank-4": feedback("coded_low_rank(4.0)"),
}
"""Name to uplink, each beside `DOWNLINK`."""

BOTH_WAYS = {
    "qsgd-8-down-4bit": (coded("qsgd(8)"), coded(uniform(16))),
    "eden-coded-half-down-4bit": ("eden_entropy_coded(0.5)", coded(uniform(16))),
    "qsgd-1-down-4bit": (coded("qsgd(1)"), coded(uniform(16))),
    "qsgd-1-down-eden-2": (
        coded("qsgd(1)"),
        "eden_fixed_rate(2, unbiased=False)",
    ),
    "qsgd-1-down-changes-3": (coded("qsgd(1)"), changes(0.03)),
    "qsgd-1-down-changes-1": (coded("qsgd(1)"), changes(0.01)),
    "ef-top-k-03-4bit-down-changes-1": (
        feedback(coded("top_k(0.003)", uniform(16, "nearest"))),
        changes(0.01),
    ),
    "ef-coded-low-rank-4-down-changes": (
        feedback("coded_low_rank(4.0)"),
        "differenced(coded_low_rank(4.0))",
    ),
}
"""Name to uplink and downlink, where the downlink is as strong as the uplink."""

FORETOLD = "coded_low_rank({step}, max_rank=32, history=32)"

UNICAST = {
    "ef-top-k-3-4bit": 2 * (coded("top_k(0.03)", uniform(16, "nearest")),),
    "ef-coded-low-rank-3": 2 * ("coded_low_rank(3.0)",),
    "ef-coded-low-rank-4": 2 * ("coded_low_rank(4.0)",),
    "ef-coded-low-rank-8": 2 * ("coded_low_rank(8.0)",),
    "ef-coded-low-rank-4-history": 2 * (FORETOLD.format(step=4.0),),
    "ef-coded-low-rank-8-history": 2 * (FORETOLD.format(step=8.0),),
}
"""Name to uplink and downlink, which carries to each client what changed since it last
heard: the name has `-unicast` behind it, and `ef` is feedback on the uplink alone. What
loses more than it is given, as QSGD in few levels does, makes these changes grow."""


def unicast(name: str, uplink: str, downlink: str) -> str:
    """A pipeline of `UNICAST`."""
    links = f"{feedback(uplink)} | {downlink}"
    return f"{name}-unicast: {links} | fed_avg(unicast=True)"


PIPELINES = (
    "dense: identity() | identity()",
    "bfloat16: to_dtype('bfloat16') | to_dtype('bfloat16')",
    *(f"{name}: {uplink} | {DOWNLINK}" for name, uplink in UPLINKS.items()),
    *(f"{name}: {up} | {down}" for name, (up, down) in BOTH_WAYS.items()),
    *(unicast(name, up, down) for name, (up, down) in UNICAST.items()),
)
"""`NAME: UPLINK | DOWNLINK [| ALGORITHM]`, as in `experiments.fed_avg.compare`."""

_QUICK_NAMES = (
    "dense",
    "uniform-4bit",
    "qsgd-8",
    "ef-sign",
    "ef-top-k-3-4bit",
    "ef-coded-low-rank-4-unicast",
)

QUICK_PIPELINES = tuple(
    text for text in PIPELINES if text.partition(":")[0] in _QUICK_NAMES
)
