"""Every algorithm on the contract of `fedjax_comp.base.Algorithm`, for one battery.

To add one, add a line: the battery in `test_algorithm_conformance.py` does the rest.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from fedjax_comp.algorithms.consensus import consensus_sgd
from fedjax_comp.algorithms.data_quantization import data_quantization
from fedjax_comp.algorithms.diloco import diloco
from fedjax_comp.algorithms.ditto import ditto
from fedjax_comp.algorithms.dynamic_averaging import dynamic, periodic
from fedjax_comp.algorithms.fed_avg import fed_avg
from fedjax_comp.algorithms.fed_buff import fed_buff
from fedjax_comp.algorithms.fed_dlr import fed_dlr
from fedjax_comp.algorithms.fed_dlrt import fed_dlrt
from fedjax_comp.algorithms.fed_dyn import fed_dyn
from fedjax_comp.algorithms.fed_exp import fed_exp
from fedjax_comp.algorithms.fed_nova import fed_nova
from fedjax_comp.algorithms.fed_per import fed_per
from fedjax_comp.algorithms.fetch_sgd import fetch_sgd, sketch_link
from fedjax_comp.algorithms.graphs import ring
from fedjax_comp.algorithms.indirect_gradients import factor_link, indirect_gradients
from fedjax_comp.algorithms.lazy_gradients import lazy_gradients, lazy_links
from fedjax_comp.algorithms.links.data_uplink import data_uplink
from fedjax_comp.algorithms.marina import marina
from fedjax_comp.algorithms.mime_lite import mime_lite
from fedjax_comp.algorithms.model_averaging import (
    Trigger,
    averaging_links,
    model_averaging,
)
from fedjax_comp.algorithms.optimal_sampling import optimal_sampling
from fedjax_comp.algorithms.scaffnew import scaffnew
from fedjax_comp.algorithms.scaffold import scaffold
from fedjax_comp.algorithms.secure_fed_avg import masked_link, secure_fed_avg
from fedjax_comp.algorithms.streaming_diloco import streaming_diloco
from fedjax_comp.algorithms.variance_monitoring import variance_monitoring
from fedjax_comp.algorithms.wrappers import gathered
from fedjax_comp.base import Algorithm, Compressor, Examples, Execution, PyTree
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
from fedjax_comp.compress.quantize.lattice import uniform_lattice
from fedjax_comp.server.robust import median
from tests.problems import NUM_CLASSES, softmax_task


class Entry(NamedTuple):
    """An algorithm under test.

    Attributes:
      make: `(execution, keep_messages) -> Algorithm` on `softmax_task()`.
      links: kind to the compressor of its messages.
      executions: those that are held against `scanned`, which all run. Chunks are
        mapped (a client for a row) and shares of a mesh scanned; both are filled up.
        Together they ask all that `vmapped` does, and each is a program to compile, so
        algorithms of one family share them out; dense ones have all.
      unkept: kinds of traffic whose messages are not kept, since no value changes their
        lengths; a test of the algorithm's own holds these against the messages.
    """

    make: Callable[[Execution, bool], Algorithm]
    links: dict[str, Compressor]
    executions: tuple[str, ...] = ("vmapped", "chunked(2)", "sharded")
    unkept: frozenset[str] = frozenset()

    def under(self, *executions: str) -> "Entry":
        """The entry with these executions."""
        return self._replace(executions=executions)


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

    return Entry(make, averaging_links(uplink, downlink))


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


def _data_quantization(
    quantizer: Compressor, *, refinement: Compressor | None = None
) -> Entry:
    def make(execution: Execution, keep_messages: bool) -> Algorithm:
        return data_quantization(
            softmax_task(),
            quantizer=quantizer,
            num_classes=NUM_CLASSES,
            optimizer=optax.sgd(0.3, momentum=0.5),
            refinement=refinement,
            execution=execution,
            keep_messages=keep_messages,
        )

    uplink = data_uplink(quantizer, num_classes=NUM_CLASSES, refinement=refinement)
    return Entry(make, {"uplink": uplink, "downlink": identity()})


def _indirect(factors: Compressor) -> Entry:
    def loss(
        params: PyTree, examples: Examples, mask: jax.Array, key: jax.Array
    ) -> jax.Array:
        """That of `softmax_task()`, through a layer that has factors."""
        wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
        logits = nn.Dense(NUM_CLASSES).apply({"params": wide}, examples.x)
        each = optax.softmax_cross_entropy_with_integer_labels(logits, examples.y)
        return jnp.where(mask, each, 0).sum() / jnp.maximum(
            mask.sum(dtype=jnp.float32), 1
        )

    def make(execution: Execution, keep_messages: bool) -> Algorithm:
        return indirect_gradients(
            softmax_task()._replace(loss=loss),
            factors=factors,
            optimizer=optax.sgd(0.3, momentum=0.5),
            execution=execution,
            keep_messages=keep_messages,
        )

    return Entry(make, {"uplink": factor_link(factors), "downlink": identity()})


def _lazy(uplink: Compressor, downlink: Compressor) -> Entry:
    def make(execution: Execution, keep_messages: bool) -> Algorithm:
        return lazy_gradients(
            softmax_task(),
            optimizer=optax.sgd(0.3, momentum=0.5),
            uplink=uplink,
            weights=(0.0, 0.0),  # the battery asks that who is active speaks
            downlink=downlink,
            execution=execution,
            keep_messages=keep_messages,
        )

    return Entry(make, lazy_links(uplink, downlink))


def _consensus(compressor: Compressor) -> Entry:
    def make(execution: Execution, keep_messages: bool) -> Algorithm:
        return consensus_sgd(
            softmax_task(),
            ring(3),
            rounds=1,
            optimizer=optax.sgd(0.3, momentum=0.5),
            compressor=compressor,
            execution=execution,
            keep_messages=keep_messages,
        )

    return Entry(make, {"neighbours": compressor})


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


_LATTICE = uniform_lattice(2, low=-4.0, high=4.0, rounding="nearest")


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
    "buffered": _fed_avg(
        error_feedback(top_k(0.5)),
        chain(qsgd(4), entropy_coded()),
        fed_buff,
        max_staleness=2,
    ).under("chunked(2)"),
    "consensus": _consensus(identity()),
    "consensus compressed": _consensus(chain(qsgd(4), entropy_coded())).under(
        "chunked(2)"
    ),
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
    "dynamic averaging": _averaging(identity(), identity(), dynamic(0.0)),
    "periodic averaging compressed": _averaging(
        error_feedback(top_k(0.5)), stochastic_quantize(levels=256), periodic()
    ).under("sharded"),
    "variance monitoring": _averaging(
        identity(), identity(), variance_monitoring(0.01)
    ).under("chunked(2)"),
    "data quantization": _data_quantization(_LATTICE),
    "data quantization refined": _data_quantization(
        _LATTICE, refinement=error_feedback(top_k(0.5))
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
    "indirect gradients": _indirect(stochastic_quantize(levels=16)).under("sharded"),
    "lazy gradients": _lazy(
        stochastic_quantize(levels=256, rounding="nearest"), identity()
    ).under("chunked(2)"),
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
