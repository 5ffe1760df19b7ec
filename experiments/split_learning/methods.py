"""The methods that are compared, as expressions of `--method`.

--method='NAME: vanilla("Conv_1")'
--method='NAME: vanilla("Conv_1") | stochastic_quantize(levels=16) | identity()'

After the expression stand the compressors of activations and of their gradients, where
they differ from `--uplink` and `--downlink`.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from fedjax_comp import checks
from fedjax_comp.experiment.expressions import build
from fedjax_comp.experiment.main import UsageError
from fedjax_comp.experiment.pipelines import check_names, parse_named
from fedjax_comp.expression import parse

Kind = Literal["round_robin", "parallel", "fed_avg", "large_batch"]


class Method(NamedTuple):
    """What is trained, and where.

    Attributes:
      kind: of training.
      cuts: layers before which the model is cut; none where it is not.
      steps: of large-batch SGD in an epoch; 0 for the others.
      rate: its learning rate.
      no_peek: weight of the penalty on what activations tell; 0 without.
    """

    kind: Kind
    cuts: tuple[str, ...] = ()
    steps: int = 0
    rate: float = 0.0
    no_peek: float = 0.0


class Variant(NamedTuple):
    """A method among so many clients: the flags of its own run."""

    name: str
    method: str
    num_clients: int
    uplink: str
    downlink: str


def vanilla(cut: str, *, no_peek: float = 0.0) -> Method:
    """Split learning in turns, labels at the server; `no_peek` weighs the penalty."""
    checks.not_negative("no_peek", no_peek)
    return Method("round_robin", (cut,), no_peek=no_peek)


def u_shaped(first: str, second: str) -> Method:
    """Split learning in turns, labels and the last layers at the client."""
    return Method("round_robin", (first, second))


def split_fed(cut: str) -> Method:
    """All clients at once, their parts averaged after every epoch."""
    return Method("parallel", (cut,))


def fed_avg() -> Method:
    """Whole models averaged after every epoch."""
    return Method("fed_avg")


def large_batch(steps: int, *, rate: float) -> Method:
    """A gradient of every client in each of so many steps an epoch."""
    if steps < 1:
        raise ValueError(f"Expected steps={steps} >= 1.")
    if not rate > 0:
        raise ValueError(f"Expected rate={rate} > 0.")
    return Method("large_batch", (), steps, rate)


METHODS = {f.__name__: f for f in (vanilla, u_shaped, split_fed, fed_avg, large_batch)}

FORM = (
    "'NAME: METHOD' or 'NAME: METHOD | UPLINK | DOWNLINK', e.g. "
    "'split: vanilla(\"Conv_1\")'"
)


def build_method(text: str) -> Method:
    """The method that an expression describes; `ValueError` when it describes none."""
    made = parse(text, METHODS, flag="method")
    if not isinstance(made, Method):
        raise ValueError(f"--method={text} makes no method; e.g. fed_avg() does.")
    return made


def parse_variants(
    texts: Sequence[str], clients: Sequence[int], *, uplink: str, downlink: str
) -> list[Variant]:
    """All values of `--method`, each for every number of clients.

    Args:
      texts: the values.
      clients: numbers of clients.
      uplink: for those that name no links.
      downlink: for those that name no links.

    Raises:
      ValueError: when one is not of that form, an expression is not valid, or two have
        the same name.

    >>> [v.name for v in parse_variants(
    ...     ["a: fed_avg()"], [10, 100], uplink="identity()", downlink="identity()"
    ... )]
    ['a-10', 'a-100']
    """
    if not clients or any(count < 1 for count in clients):
        raise UsageError(
            f"--num_clients={list(clients)} must be numbers of at least 1."
        )
    variants = []
    for name, (method, *links) in parse_named("method", texts, FORM, counts=(1, 3)):
        build_method(method)
        up, down = links or (uplink, downlink)
        build("uplink", up)
        build("downlink", down)
        variants += [Variant(f"{name}-{n}", method, n, up, down) for n in clients]
    check_names("method", [variant.name for variant in variants])
    return variants
