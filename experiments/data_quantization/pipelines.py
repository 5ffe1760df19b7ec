"""The pipelines that are compared: to add one, add a line."""


def _gradient(uplink: str, family: str) -> str:
    return f"gradient({uplink}, family='{family}')"


def _feedback(*stages: str) -> str:
    return f"error_feedback(flattened(chain({', '.join(stages)}, entropy_coded())))"


def _buckets(quantizer: str) -> str:
    """A scale for every 512 coordinates and not for a leaf: far less noise."""
    return f"blockwise(512, {quantizer})"


def _coded(quantizer: str) -> str:
    return f"chain({quantizer}, entropy_coded())"


NEAREST = "uniform_lattice(1, rounding='nearest')"

METHODS = {
    "dense": _gradient("identity()", "dense"),
    "qsgd-4bit": _gradient(_buckets("qsgd(7)"), "quantizer"),
    "qsgd-2bit": _gradient(_buckets("qsgd(1)"), "quantizer"),
    "qsgd-4bit-buckets": _gradient(_coded(_buckets("qsgd(7)")), "quantizer"),
    "qsgd-2bit-buckets": _gradient(_coded(_buckets("qsgd(1)")), "quantizer"),
    "qsgd-4bit-coded": _gradient(_coded("qsgd(7)"), "quantizer"),
    "terngrad-coded": _gradient(_coded(_buckets("terngrad()")), "quantizer"),
    "ef-sign": _gradient("error_feedback(scaled_sign())", "quantizer"),
    "eden-1bit": _gradient("eden_fixed_rate(1)", "quantizer"),
    "ef-top-k-1%": _gradient(_feedback("top_k(0.01)"), "sparsifier"),
    "ef-top-k-0.1%-4bit": _gradient(
        _feedback("top_k(0.001)", "stochastic_quantize(16, rounding='nearest')"),
        "sparsifier",
    ),
    "ef-power-sgd-1": _gradient("error_feedback(power_sgd(1))", "low-rank"),
    "data-8bit": "data(uniform_lattice(8, rounding='nearest'))",
    "data-2bit": "data(uniform_lattice(2))",
    "data-1bit": f"data({NEAREST})",
    "data-1bit-coded": f"data(chain({NEAREST}, entropy_coded()))",
    "data-1bit-half": (
        f"data({NEAREST}, importance=importance(loss_score(), rate=0.5))"
    ),
    "data-1bit-refined": f"data({NEAREST}, refinement={_feedback('top_k(0.0001)')})",
    "shipped-1bit": f"shipped({NEAREST})",
}
"""Name to method."""


def _named(name: str) -> str:
    plain = name.replace("%", "").replace(".", "")
    return f"{plain}: {METHODS[name]}"


PIPELINES = tuple(map(_named, METHODS))
"""`NAME: METHOD`, as values of `--pipeline`."""

QUICK_PIPELINES = tuple(
    map(
        _named,
        (
            "dense",
            "qsgd-2bit",
            "ef-sign",
            "ef-top-k-1%",
            "data-2bit",
            "data-1bit-half",
            "shipped-1bit",
        ),
    )
)
