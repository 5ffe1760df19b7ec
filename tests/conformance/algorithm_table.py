"""Every algorithm on the contract of `fedjax_comp.base.Algorithm`, for one battery.

To add one, add a line: the battery in `test_algorithm_conformance.py` does the rest.
"""

from collections.abc import Callable
from typing import NamedTuple

import optax

from fedjax_comp.algorithms.dynamic_averaging import dynamic, periodic
from fedjax_comp.algorithms.fed_avg import fed_avg
from fedjax_comp.algorithms.fetch_sgd import fetch_sgd
from fedjax_comp.algorithms.model_averaging import Trigger, model_averaging
from fedjax_comp.base import Algorithm, Compressor, Execution
from fedjax_comp.compress import (
    chain,
    entropy_coded,
    error_feedback,
    flattened,
    identity,
    qsgd,
    stochastic_quantize,
    top_k,
)
from fedjax_comp.compress.sketch import count_sketch
from tests.problems import softmax_task


class Entry(NamedTuple):
    """An algorithm under test.

    Attributes:
      make: `(execution, keep_messages) -> Algorithm` on `softmax_task()`.
      links: direction to the compressor of its messages.
    """

    make: Callable[[Execution, bool], Algorithm]
    links: dict[str, Compressor]


def _fed_avg(uplink: Compressor, downlink: Compressor, **options: object) -> Entry:
    def make(execution: Execution, keep_messages: bool) -> Algorithm:
        return fed_avg(
            softmax_task(),
            client_optimizer=optax.sgd(0.3),
            uplink=uplink,
            downlink=downlink,
            execution=execution,
            keep_messages=keep_messages,
            **options,
        )

    return Entry(make, {"uplink": uplink, "downlink": downlink})


def _averaging(uplink: Compressor, downlink: Compressor, trigger: Trigger) -> Entry:
    def make(execution: Execution, keep_messages: bool) -> Algorithm:
        return model_averaging(
            softmax_task(),
            trigger,
            optimizer=optax.sgd(0.3, momentum=0.5),
            uplink=uplink,
            downlink=downlink,
            execution=execution,
            keep_messages=keep_messages,
        )

    return Entry(make, {"uplink": uplink, "downlink": downlink})


def _fetch_sgd(downlink: Compressor) -> Entry:
    def make(execution: Execution, keep_messages: bool) -> Algorithm:
        return fetch_sgd(
            softmax_task(),
            client_optimizer=optax.sgd(0.3),
            rows=3,
            columns=5,
            k=4,
            downlink=downlink,
            execution=execution,
            keep_messages=keep_messages,
        )

    uplink = flattened(count_sketch(rows=3, columns=5))
    return Entry(make, {"uplink": uplink, "downlink": downlink})


ALGORITHMS = {
    "dynamic averaging": _averaging(identity(), identity(), dynamic(0.0)),
    "periodic averaging compressed": _averaging(
        error_feedback(top_k(0.5)), stochastic_quantize(levels=256), periodic()
    ),
    "fed_avg dense": _fed_avg(identity(), identity()),
    "fed_avg compressed": _fed_avg(
        error_feedback(chain(top_k(0.5), qsgd(4), entropy_coded())),
        chain(stochastic_quantize(levels=256), entropy_coded()),
    ),
    "fed_avg proximal": _fed_avg(identity(), identity(), proximal=0.1),
    "fed_avg momentum": _fed_avg(
        top_k(0.5),
        error_feedback(stochastic_quantize(levels=64)),
        server_optimizer=optax.sgd(1.0, momentum=0.9),
    ),
    "fetch_sgd": _fetch_sgd(identity()),
}
