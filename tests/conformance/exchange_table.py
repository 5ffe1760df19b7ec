"""Algorithms that send something else than what local training changed of a model.

Data, gradients that are news, factors of gradients, differences of losses, soft labels,
models when a trigger says so, and what neighbours tell each other: rows of
`algorithm_table.ALGORITHMS`.
"""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from fedjax_comp.algorithms.consensus import consensus_sgd
from fedjax_comp.algorithms.data_quantization import data_quantization
from fedjax_comp.algorithms.dynamic_averaging import dynamic, periodic
from fedjax_comp.algorithms.fed_distill import fed_distill
from fedjax_comp.algorithms.fed_zeroth_order import (
    fed_zeroth_order,
    zeroth_order_links,
)
from fedjax_comp.algorithms.graphs import ring
from fedjax_comp.algorithms.indirect_gradients import factor_link, indirect_gradients
from fedjax_comp.algorithms.lazy_gradients import lazy_gradients, lazy_links
from fedjax_comp.algorithms.links.data_uplink import data_uplink
from fedjax_comp.algorithms.model_averaging import (
    Trigger,
    averaging_links,
    model_averaging,
)
from fedjax_comp.algorithms.variance_monitoring import variance_monitoring
from fedjax_comp.base import Algorithm, Compressor, Examples, Execution, PyTree
from fedjax_comp.compress import (
    chain,
    differenced,
    entropy_coded,
    error_feedback,
    identity,
    qsgd,
    simplex_quantize,
    stochastic_quantize,
    top_k,
)
from fedjax_comp.compress.quantize.lattice import uniform_lattice
from tests.conformance.algorithm_checks import Entry
from tests.problems import NUM_CLASSES, make_examples, softmax_task


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


def _distill(uplink: Compressor, downlink: Compressor, **own: float) -> Entry:
    def make(execution: Execution, keep_messages: bool) -> Algorithm:
        return fed_distill(
            softmax_task(),
            client_optimizer=optax.sgd(0.3),
            public=make_examples(7, seed=1).x,
            num_classes=NUM_CLASSES,
            distill_batch=3,
            uplink=uplink,
            downlink=downlink,
            execution=execution,
            keep_messages=keep_messages,
            **own,
        )

    return Entry(make, {"uplink": uplink, "downlink": downlink})


def _zeroth_order(uplink: Compressor) -> Entry:
    def make(execution: Execution, keep_messages: bool) -> Algorithm:
        return fed_zeroth_order(
            softmax_task(),
            client_optimizer=optax.sgd(0.05),
            directions=3,
            smoothing=0.01,
            uplink=uplink,
            execution=execution,
            keep_messages=keep_messages,
        )

    return Entry(make, zeroth_order_links(uplink))


_LATTICE = uniform_lattice(2, low=-4.0, high=4.0, rounding="nearest")


EXCHANGES = {
    "consensus": _consensus(identity()),
    "consensus compressed": _consensus(chain(qsgd(4), entropy_coded())).under(
        "chunked(2)"
    ),
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
    "fed_distill": _distill(
        chain(simplex_quantize(8), entropy_coded()),
        chain(stochastic_quantize(levels=256), entropy_coded()),
        sample=5,
        temperature=0.5,
    ).under("chunked(2)"),
    "fed_distill changes": _distill(
        differenced(stochastic_quantize(levels=256)),
        error_feedback(stochastic_quantize(levels=256)),
        distill_epochs=2,
    ).under("sharded"),
    "fed_zeroth_order": _zeroth_order(identity()),
    "fed_zeroth_order compressed": _zeroth_order(
        stochastic_quantize(levels=256, rounding="nearest")
    ).under("chunked(2)"),
    "indirect gradients": _indirect(stochastic_quantize(levels=16)).under("sharded"),
    "lazy gradients": _lazy(
        stochastic_quantize(levels=256, rounding="nearest"), identity()
    ).under("chunked(2)"),
}
