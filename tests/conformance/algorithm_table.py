"""Every algorithm on the contract of `fedjax_comp.base.Algorithm`, for one battery.

To add one, add a line: the battery in `test_algorithm_conformance.py` does the rest.
Those that send something else than a model's update are in `exchange_table.py`.
"""

from collections.abc import Callable

import optax

from fedjax_comp.algorithms.diloco import diloco
from fedjax_comp.algorithms.ditto import ditto
from fedjax_comp.algorithms.fed_avg import fed_avg
from fedjax_comp.algorithms.fed_buff import fed_buff
from fedjax_comp.algorithms.fed_dlr import fed_dlr
from fedjax_comp.algorithms.fed_dlrt import fed_dlrt
from fedjax_comp.algorithms.fed_dyn import fed_dyn
from fedjax_comp.algorithms.fed_exp import fed_exp
from fedjax_comp.algorithms.fed_nova import fed_nova
from fedjax_comp.algorithms.fed_per import fed_per
from fedjax_comp.algorithms.fetch_sgd import fetch_sgd, sketch_link
from fedjax_comp.algorithms.locodl import locodl
from fedjax_comp.algorithms.marina import marina
from fedjax_comp.algorithms.mime_lite import mime_lite
from fedjax_comp.algorithms.optimal_sampling import optimal_sampling
from fedjax_comp.algorithms.scaffnew import scaffnew
from fedjax_comp.algorithms.scaffold import scaffold
from fedjax_comp.algorithms.secure_fed_avg import masked_link, secure_fed_avg
from fedjax_comp.algorithms.streaming_diloco import streaming_diloco
from fedjax_comp.algorithms.wrappers import gathered
from fedjax_comp.base import Algorithm, Compressor, Execution
from fedjax_comp.compress import (
    chain,
    common_range,
    entropy_coded,
    error_feedback,
    identity,
    qsgd,
    random_k,
    stochastic_quantize,
    top_k,
)
from fedjax_comp.compress.budget.ladder import ladder
from fedjax_comp.compress.low_rank.truncation import truncation
from fedjax_comp.server.robust import median
from tests.conformance.algorithm_checks import Entry
from tests.conformance.exchange_table import EXCHANGES
from tests.problems import softmax_task


def _fed_avg(
    uplink: Compressor,
    downlink: Compressor,
    algorithm: Callable[..., Algorithm] = fed_avg,
    **options: object,
) -> Entry:
    def make(execution: Execution, keep_messages: bool) -> Algorithm:
        return algorithm(
            softmax_task(),
            client_optimizer=optax.sgd(0.3),
            uplink=uplink,
            downlink=downlink,
            execution=execution,
            keep_messages=keep_messages,
            **options,
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

    uplink = sketch_link(rows=3, columns=5)
    return Entry(make, {"uplink": uplink, "downlink": downlink})


def _marina(compressor: Compressor, downlink: Compressor) -> Entry:
    def make(execution: Execution, keep_messages: bool) -> Algorithm:
        return marina(
            softmax_task(),
            client_optimizer=optax.sgd(0.3),
            uplink=compressor,
            probability=0.5,
            downlink=downlink,
            execution=execution,
            keep_messages=keep_messages,
        )

    return Entry(make, {"uplink": ladder(compressor, identity()), "downlink": downlink})


def _secure(uplink: Compressor, downlink: Compressor) -> Entry:
    # Of the battery's three clients one may stay away, or break.
    entry = _fed_avg(uplink, downlink, secure_fed_avg, threshold=2)
    return entry._replace(
        links={"uplink": masked_link(uplink), "downlink": downlink},
        unkept=frozenset({"agreement_up", "agreement_down"}),
    )


def _streaming(uplink: Compressor, downlink: Compressor) -> Entry:
    entry = _fed_avg(
        uplink, downlink, streaming_diloco, fragments=2, delay=1, mixing=0.5
    )
    later = {f"{kind}_1": link for kind, link in entry.links.items()}
    return entry._replace(links={**entry.links, **later})


def _gathered(uplink: Compressor) -> Entry:
    entry = _fed_avg(uplink, identity(), diloco)
    return Entry(
        lambda *options: gathered(entry.make(*options), population=3),
        {"uplink": uplink},
    )


def _fed_dlr(uplink: Compressor, downlink: Compressor, **own: bool | int) -> Entry:
    return _fed_avg(uplink, downlink, fed_dlr, **own)


def _optimal_sampling(uplink: Compressor, downlink: Compressor) -> Entry:
    # The battery asks that who is active speaks.
    entry = _fed_avg(uplink, downlink, optimal_sampling, expected=3)
    numbers = {"norms": identity(), "chances": identity()}
    return entry._replace(links={**entry.links, **numbers})


def _fed_dlrt(uplink: Compressor, downlink: Compressor) -> Entry:
    entry = _fed_avg(uplink, downlink, fed_dlrt, rank=1)
    bases = {f"basis_{kind}": link for kind, link in entry.links.items()}
    return entry._replace(links={**entry.links, **bases})


ALGORITHMS = {
    **EXCHANGES,
    "buffered": _fed_avg(
        error_feedback(top_k(0.5)),
        chain(qsgd(4), entropy_coded()),
        fed_buff,
        max_staleness=2,
    ).under("chunked(2)"),
    "diloco": _fed_avg(
        error_feedback(chain(top_k(0.5), qsgd(4), entropy_coded())),
        stochastic_quantize(levels=64),
        diloco,
    ).under("chunked(2)"),
    "diloco changes": _fed_avg(
        error_feedback(top_k(0.5)),
        chain(top_k(0.5), qsgd(4), entropy_coded()),
        diloco,
        changes=True,
        population=3,
    ).under("sharded"),
    "ditto": _fed_avg(
        error_feedback(top_k(0.5)), stochastic_quantize(levels=64), ditto, pull=0.1
    ).under("chunked(2)"),
    "fed_avg dense": _fed_avg(identity(), identity()),
    "fed_avg compressed": _fed_avg(
        error_feedback(chain(top_k(0.5), qsgd(4), entropy_coded())),
        chain(stochastic_quantize(levels=256), entropy_coded()),
    ).under("chunked(2)", "sharded"),
    "fed_avg proximal": _fed_avg(identity(), identity(), proximal=0.1).under("sharded"),
    "fed_avg median": _fed_avg(
        error_feedback(top_k(0.5)), identity(), aggregation=median()
    ).under("chunked(2)"),
    "fed_avg momentum": _fed_avg(
        top_k(0.5),
        error_feedback(stochastic_quantize(levels=64)),
        server_optimizer=optax.sgd(1.0, momentum=0.9),
    ).under("sharded"),
    "fed_avg unicast": _fed_avg(
        error_feedback(top_k(0.5)),
        chain(top_k(0.5), qsgd(4), entropy_coded()),
        unicast=True,
    ).under("chunked(2)", "sharded"),
    "fed_dlr": _fed_dlr(error_feedback(truncation(0.8)), truncation(0.9)).under(
        "chunked(2)"
    ),
    "fed_dlr factored": _fed_dlr(truncation(0.9), truncation(0.9), factored=True).under(
        "sharded"
    ),
    "fed_dlr quantized factors": _fed_dlr(
        truncation(0.9), stochastic_quantize(levels=64), factor_rank=1
    ).under("sharded"),
    "fed_dlrt": _fed_dlrt(
        error_feedback(stochastic_quantize(levels=256)),
        chain(stochastic_quantize(levels=256), entropy_coded()),
    ).under("chunked(2)"),
    "fed_dyn": _fed_avg(
        error_feedback(top_k(0.5)),
        stochastic_quantize(levels=64),
        fed_dyn,
        population=3,
    ).under("chunked(2)"),
    "fed_exp": _fed_avg(
        error_feedback(top_k(0.5)), stochastic_quantize(levels=64), fed_exp
    ).under("chunked(2)"),
    "fed_nova": _fed_avg(
        error_feedback(top_k(0.5)), stochastic_quantize(levels=64), fed_nova
    ).under("sharded"),
    "fed_per": _fed_avg(
        error_feedback(top_k(0.5)),
        stochastic_quantize(levels=64),
        fed_per,
        personal="bias",
    ).under("sharded"),
    "fetch_sgd": _fetch_sgd(identity()).under("chunked(2)", "sharded"),
    "gathered": _gathered(
        error_feedback(chain(top_k(0.5), qsgd(4), entropy_coded()))
    ).under("chunked(2)"),
    "locodl": _fed_avg(
        chain(random_k(0.5), qsgd(64)),
        identity(),
        lambda task, uplink, downlink, **own: locodl(task, uplink=uplink, **own),
        population=3,
        probability=0.5,
        omega=1.2,
    ).under("chunked(2)", "sharded"),
    "marina": _marina(
        random_k(0.5), error_feedback(stochastic_quantize(levels=64))
    ).under("chunked(2)", "sharded"),
    "mime_lite": _fed_avg(
        error_feedback(top_k(0.5)),
        chain(stochastic_quantize(levels=64), entropy_coded()),
        mime_lite,
    ).under("sharded"),
    "optimal sampling": _optimal_sampling(
        error_feedback(top_k(0.5)), stochastic_quantize(levels=64)
    ).under("sharded"),
    "scaffnew": _fed_avg(
        identity(),
        identity(),
        lambda task, uplink, downlink, **own: scaffnew(task, **own),
        population=3,
        probability=0.5,
    ).under("chunked(2)"),
    "scaffold": _fed_avg(
        error_feedback(top_k(0.5)),
        stochastic_quantize(levels=64),
        scaffold,
        population=3,
    ).under("sharded"),
    "streaming_diloco": _streaming(
        error_feedback(chain(top_k(0.5), qsgd(4), entropy_coded())),
        stochastic_quantize(levels=64),
    ).under("chunked(2)"),
    "secure_fed_avg": _secure(
        error_feedback(common_range(255, limit=2.0)), stochastic_quantize(levels=256)
    ).under("chunked(2)", "sharded"),
}
