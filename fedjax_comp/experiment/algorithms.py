"""The algorithms that `--algorithm` offers: a row each.

On the command line an algorithm is a call of its factory with the arguments that are
its own. Arguments that other flags give (task, optimizers, compressors, execution) are
filled in:

    --algorithm='marina(probability=0.1)' --uplink='random_k(0.05)'
    --algorithm='fed_avg(aggregation=median())'

An algorithm whose clients are asked about public examples takes their number,
`fed_distill(public=500)`: so many training examples are taken out of the federation,
and the algorithm gets their inputs in place of the number.

To offer one more, add a row to `OFFERED` (or to `AGGREGATORS`). A flag that the chosen
algorithm has no argument for is refused, not ignored.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import NamedTuple

from fedjax_comp import checks
from fedjax_comp.algorithms.diloco import diloco
from fedjax_comp.algorithms.ditto import ditto
from fedjax_comp.algorithms.fed_avg import fed_avg
from fedjax_comp.algorithms.fed_buff import fed_buff
from fedjax_comp.algorithms.fed_distill import fed_distill
from fedjax_comp.algorithms.fed_dlr import fed_dlr
from fedjax_comp.algorithms.fed_dlrt import fed_dlrt
from fedjax_comp.algorithms.fed_dyn import fed_dyn
from fedjax_comp.algorithms.fed_exp import fed_exp
from fedjax_comp.algorithms.fed_nova import fed_nova
from fedjax_comp.algorithms.fed_per import fed_per
from fedjax_comp.algorithms.fed_zeroth_order import (
    fed_zeroth_order,
    zeroth_order_links,
)
from fedjax_comp.algorithms.fetch_sgd import fetch_sgd, sketch_link
from fedjax_comp.algorithms.locodl import locodl
from fedjax_comp.algorithms.marina import marina
from fedjax_comp.algorithms.mime_lite import mime_lite
from fedjax_comp.algorithms.optimal_sampling import optimal_sampling
from fedjax_comp.algorithms.scaffnew import scaffnew
from fedjax_comp.algorithms.scaffold import scaffold
from fedjax_comp.algorithms.secure_fed_avg import masked_link, secure_fed_avg
from fedjax_comp.algorithms.streaming_diloco import kind_of, streaming_diloco
from fedjax_comp.base import Algorithm, Compressor
from fedjax_comp.client import zeroth_order
from fedjax_comp.compress import identity
from fedjax_comp.compress.budget.ladder import ladder
from fedjax_comp.experiment.errors import UsageError
from fedjax_comp.server import robust

Links = dict[str, Compressor]
"""Kind of message to its compressor, for audits."""

AGGREGATORS: Mapping[str, Callable[..., robust.Aggregator]] = {
    factory.__name__: factory
    for factory in (
        robust.geometric_median,
        robust.krum,
        robust.median,
        robust.norm_bound,
        robust.trimmed_mean,
    )
}
"""What an algorithm's argument `aggregation` may be, where it has one."""

DIRECTIONS: Mapping[str, Callable[[], zeroth_order.Directions]] = {
    factory.__name__: factory
    for factory in (
        zeroth_order.coordinates,
        zeroth_order.gaussian,
        zeroth_order.signs,
    )
}
"""What the argument `draw` of `fed_zeroth_order()` may be."""

FROM_FLAGS = {
    "client_optimizer": "sgd(0.1)",
    "execution": "auto()",
    "keep_messages": None,
    "noise": None,
    "population": None,
    "num_classes": None,
    "aggregation": None,
    "uplink": "identity()",
    "downlink": "identity()",
    "server_optimizer": "sgd(1.0)",
    "proximal": 0.0,
}
"""Arguments that flags fill in, and the flag's default, which asks for nothing: with
any other value the algorithm must have the argument. None: there is no such flag."""


class Chosen(NamedTuple):
    """An algorithm as it was named: its factory, and the arguments that are its own."""

    name: str
    own: Mapping[str, object]


def _as_given(own: Mapping[str, object], up: Compressor, down: Compressor) -> Links:
    del own
    return {"uplink": up, "downlink": down}


def _sketched(own: Mapping[str, object], up: Compressor, down: Compressor) -> Links:
    del up
    sizes = {name: own[name] for name in ("rows", "columns")}
    return {"uplink": sketch_link(**sizes), "downlink": down}  # type: ignore[arg-type]


def _or_in_full(own: Mapping[str, object], up: Compressor, down: Compressor) -> Links:
    del own
    return {"uplink": ladder(up, identity()), "downlink": down}


def _with_numbers(own: Mapping[str, object], up: Compressor, down: Compressor) -> Links:
    return {**_as_given(own, up, down), "norms": identity(), "chances": identity()}


def _twice(own: Mapping[str, object], up: Compressor, down: Compressor) -> Links:
    kinds = _as_given(own, up, down)
    return {**kinds, **{f"basis_{kind}": link for kind, link in kinds.items()}}


def _streamed(own: Mapping[str, object], up: Compressor, down: Compressor) -> Links:
    parts = range(int(str(own.get("fragments", 2))))
    links = {"uplink": up, "downlink": down}
    return {kind_of(kind, i): link for i in parts for kind, link in links.items()}


def _masked(own: Mapping[str, object], up: Compressor, down: Compressor) -> Links:
    del own
    return {"uplink": masked_link(up), "downlink": down}


def _numbers(own: Mapping[str, object], up: Compressor, down: Compressor) -> Links:
    del own, down
    return zeroth_order_links(up)


class Offered(NamedTuple):
    """A row of the table.

    Attributes:
      factory: `(task, *, ...) -> Algorithm`.
      links: `(own arguments, uplink, downlink) -> the compressors of its messages`.
    """

    factory: Callable[..., Algorithm]
    links: Callable[[Mapping[str, object], Compressor, Compressor], Links] = _as_given


OFFERED: dict[str, Offered] = {
    "diloco": Offered(diloco),
    "ditto": Offered(ditto),
    "fed_avg": Offered(fed_avg),
    "fed_buff": Offered(fed_buff),
    "fed_distill": Offered(fed_distill),
    "fed_dlr": Offered(fed_dlr),
    "fed_dlrt": Offered(fed_dlrt, _twice),
    "fed_dyn": Offered(fed_dyn),
    "fed_exp": Offered(fed_exp),
    "fed_nova": Offered(fed_nova),
    "fed_per": Offered(fed_per),
    "fed_zeroth_order": Offered(fed_zeroth_order, _numbers),
    "fetch_sgd": Offered(fetch_sgd, _sketched),
    "locodl": Offered(locodl),
    "marina": Offered(marina, _or_in_full),
    "mime_lite": Offered(mime_lite),
    "optimal_sampling": Offered(optimal_sampling, _with_numbers),
    "scaffnew": Offered(scaffnew),
    "scaffold": Offered(scaffold),
    "secure_fed_avg": Offered(secure_fed_avg, _masked),
    "streaming_diloco": Offered(streaming_diloco, _streamed),
}


def _arguments(name: str) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(OFFERED[name].factory).parameters


def named(name: str) -> Callable[..., Chosen]:
    """What the name calls in an expression: it takes the algorithm's own arguments."""
    own = [
        argument
        for argument in _arguments(name).values()
        if argument.name == "aggregation"
        or (argument.name != "task" and argument.name not in FROM_FLAGS)
    ]

    def choose(**arguments: object) -> Chosen:
        given = arguments.get("aggregation")
        if given is not None and not isinstance(given, robust.Aggregator):
            raise ValueError(
                "Expected aggregation to be a call of one of "
                f"{', '.join(AGGREGATORS)}; leave it out for the weighted mean."
            )
        return Chosen(name, arguments)

    choose.__name__ = name
    choose.__signature__ = inspect.Signature(own)  # type: ignore[attr-defined]
    return choose


NAMES: dict[str, Callable[..., object]] = {
    **{name: named(name) for name in OFFERED},
    **AGGREGATORS,
    **DIRECTIONS,
}
"""What an expression of `--algorithm` may call."""


def make_algorithm(
    chosen: Chosen,
    task: object,
    given: Mapping[str, object],
    asked: Mapping[str, object],
) -> Algorithm:
    """The algorithm, with what the flags tell.

    Args:
      chosen: the algorithm and its own arguments.
      task: what is learnt.
      given: argument to value, for those of `FROM_FLAGS`, and the inputs that `public`
        asked for.
      asked: flag to its value as it was written, for those that may ask for nothing.

    Raises:
      UsageError: for a flag that asks for something the algorithm has no argument for.
    """
    check_asked(chosen, asked)
    arguments = _arguments(chosen.name)
    filled = {name: value for name, value in given.items() if name in arguments}
    own = dict(chosen.own)
    if num_public(chosen) is not None:
        own["public"] = given["public"]
    return OFFERED[chosen.name].factory(task, **{**filled, **own})


def num_public(chosen: Chosen) -> int | None:
    """How many training examples an algorithm wants to be public; None for none.

    Raises:
      ValueError: for what is no integer of at least 1.

    >>> num_public(Chosen("fed_distill", {"public": 500}))
    500
    """
    asked = chosen.own.get("public")
    return None if asked is None else checks.integer("public", asked, minimum=1)


def check_asked(chosen: Chosen, asked: Mapping[str, object]) -> None:
    """Refuses flags that ask for something the algorithm has no argument for.

    Args:
      chosen: the algorithm and its own arguments.
      asked: flag to its value as it was written.

    Raises:
      UsageError: for the first such flag.

    >>> check_asked(Chosen("fed_dlr", {}), {"proximal": 0.0, "uplink": "top_k(0.1)"})
    """
    arguments = _arguments(chosen.name)
    for flag, nothing in FROM_FLAGS.items():
        value = asked.get(flag, nothing)
        if flag not in arguments and value != nothing:
            raise UsageError(
                f"--{flag}={value}: {chosen.name}() has no {flag}; leave the flag out."
            )


def check_cohort(text: str, chosen: Chosen, cohort_size: int) -> None:
    """Refuses an aggregator that needs more clients than there are in a round.

    Args:
      text: the algorithm as it was written.
      chosen: what it is.
      cohort_size: `C`.

    Raises:
      UsageError: when it does.

    >>> check_cohort("...", Chosen("fed_avg", {"aggregation": robust.krum(2)}), 7)
    """
    aggregator = chosen.own.get("aggregation")
    if isinstance(aggregator, robust.Aggregator):
        try:
            robust.require_clients(aggregator, cohort_size)
        except ValueError as error:
            raise UsageError(f"--algorithm={text}: {error}") from error


def links_of(chosen: Chosen, uplink: Compressor, downlink: Compressor) -> Links:
    """The compressor of every kind of message that the algorithm sends."""
    return OFFERED[chosen.name].links(chosen.own, uplink, downlink)
