"""The methods compared, as expressions of `--pipeline='NAME: METHOD [| OPTIMIZER]'`.

--pipeline='sign: gradient(error_feedback(scaled_sign()), family="quantizer")'
--pipeline='data: data(uniform_lattice(1), refinement=random_k(0.001))'
--pipeline='once: shipped(uniform_lattice(1)) | adam(0.003)'
--pipeline='factors: indirect(stochastic_quantize(16))'
"""

from collections.abc import Sequence
from typing import NamedTuple

from fedjax_comp.algorithms.importance import (
    Importance,
    gradient_norm,
    importance,
    loss_score,
)
from fedjax_comp.base import Compressor
from fedjax_comp.experiment.expressions import COMPRESSORS, build
from fedjax_comp.experiment.main import UsageError
from fedjax_comp.experiment.pipelines import parse_named
from fedjax_comp.expression import parse

DATA, SHIPPED, FACTORS = "data", "shipped", "factors"
FAMILIES = ("dense", "quantizer", "sparsifier", "low-rank")


class Gradient(NamedTuple):
    """Distributed SGD with a compressor on the gradients, and its family."""

    uplink: Compressor
    family: str


class Data(NamedTuple):
    """Distributed SGD on quantized examples; `cache` examples are kept a client."""

    quantizer: Compressor
    refinement: Compressor | None
    importance: Importance | None
    cache: int
    family: str = DATA


class Shipped(NamedTuple):
    """The whole data set sent once, quantized, and SGD at the server."""

    quantizer: Compressor
    family: str = SHIPPED


class Indirect(NamedTuple):
    """Distributed SGD on gradients made of quantized factors, where there are any."""

    factors: Compressor
    rest: Compressor | None
    family: str = FACTORS


Method = Gradient | Data | Shipped | Indirect


class Variant(NamedTuple):
    """A named method and the server's optimizer, as expressions, and its family."""

    name: str
    method: str
    server_optimizer: str
    family: str


def gradient(uplink: Compressor, *, family: str) -> Gradient:
    """Each client sends its batch's gradient through a compressor."""
    if family not in FAMILIES:
        raise ValueError(f"Expected family={family!r} to be one of {FAMILIES}.")
    return Gradient(uplink, family)


def data(
    quantizer: Compressor,
    *,
    refinement: Compressor | None = None,
    importance: Importance | None = None,
    cache: int = 0,
) -> Data:
    """Each client sends its batch's examples through a compressor."""
    if cache < 0:
        raise ValueError(f"Expected cache={cache} >= 0.")
    return Data(quantizer, refinement, importance, cache)


def shipped(quantizer: Compressor) -> Shipped:
    """Each client sends all its examples once, before the first step."""
    return Shipped(quantizer)


def indirect(factors: Compressor, *, rest: Compressor | None = None) -> Indirect:
    """Each client sends the factors of its dense layers' gradients, and the rest."""
    return Indirect(factors, rest)


NAMES = {
    **COMPRESSORS,
    "data": data,
    "gradient": gradient,
    "gradient_norm": gradient_norm,
    "importance": importance,
    "indirect": indirect,
    "loss_score": loss_score,
    "shipped": shipped,
}


def build_method(text: str) -> Method:
    """The method that an expression describes; `ValueError` for any other."""
    made = parse(text, NAMES, flag="pipeline")
    if not isinstance(made, Method):
        raise UsageError(
            f"--pipeline: {text} is not a method; use gradient(...), data(...), "
            "indirect(...) or shipped(...)."
        )
    return made


def parse_variants(texts: Sequence[str], server_optimizer: str) -> list[Variant]:
    """All values of `--pipeline`, each valid and with a name of its own.

    Args:
      texts: the values.
      server_optimizer: of those that name none.
    """
    form = (
        "'NAME: METHOD', with '| OPTIMIZER' behind it or without, e.g. "
        "'dense: gradient(identity(), family=\"dense\") | sgd(0.1)'"
    )
    found = []
    for name, parts in parse_named("pipeline", texts, form, counts=(1, 2)):
        method, optimizer = (*parts, server_optimizer)[:2]
        build("server_optimizer", optimizer)
        found.append(Variant(name, method, optimizer, build_method(method).family))
    return found
