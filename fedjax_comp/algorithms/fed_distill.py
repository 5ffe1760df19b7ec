"""Federated distillation: clients send predictions on public examples, not models.

Itahara, Nishio, Koda, Morikura and Yamamoto 2020, "Distillation-based semi-supervised
federated learning for communication-efficient collaborative training with non-IID
private data" (DS-FL, arXiv 2008.06180): who sends what and when, and the sharpening of
the mean. Sattler, Marban, Rischke and Samek 2021, "CFD" (arXiv 2012.00632): few bits
suffice for soft labels (`simplex_quantize`), and where every round has the same
examples, only changes need to be sent (`differenced`, of a quantizer of numbers of
either sign). Lin, Kong, Stich and Jaggi 2020 (FedDF, arXiv 2006.07242) distil as well,
but send models. Means by shares of examples are ours.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_comp import checks
from fedjax_comp.algorithms.client_update import Sent, Summand, round_info, send
from fedjax_comp.algorithms.links.given import given, given_execution
from fedjax_comp.base import (
    Algorithm,
    ClientBatches,
    Cohort,
    Compressor,
    Examples,
    Execution,
    LinkState,
    PyTree,
    RoundInfo,
    Task,
    make_context,
)
from fedjax_comp.client.distillation import (
    Lesson,
    distilled,
    in_batches,
    num_inputs,
    soft_labels,
)
from fedjax_comp.client.sgd import local_sgd
from fedjax_comp.compress.quantize.simplex import on_simplex
from fedjax_comp.server.aggregate import weighted_mean
from fedjax_comp.server.broadcast import broadcast, partly_heard
from fedjax_comp.tree import all_finite, where


class ServerState(NamedTuple):
    """The server's model and the memory of its downlink."""

    params: PyTree
    downlink: LinkState


class ClientState(NamedTuple):
    """A client's own model and the memory of its uplink."""

    own: PyTree
    uplink: LinkState


def fed_distill(
    task: Task,
    *,
    public: PyTree,
    num_classes: int,
    client_optimizer: optax.GradientTransformation,
    sample: int | None = None,
    temperature: float | None = None,
    distill_rate: float = 0.1,
    distill_epochs: int = 1,
    distill_batch: int = 50,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
    execution: Execution | None = None,
    keep_messages: bool = False,
) -> Algorithm:
    """DS-FL: models that are trained to agree on examples that everybody has.

        w_i <- optimizer steps on client i's own examples from w_i
        y   <- sum_i s_i C(p(. | x; w_i)),    s_i client i's share of the examples
        y   <- softmax(y / T)                 with a temperature T
        w   <- SGD on the cross-entropy of p(. | x; w) to y
        w_i <- the same from w_i, to y as decoded from the downlink

    over the `P'` public inputs `x` of the round, whose labels are unknown. As in DS-FL
    every client continues from its own model, which is never sent; neither is the
    server's model, the one that is evaluated. All start from the same model, drawn from
    the seed. A client that is not in a round neither trains nor receives anything. A
    round costs a client `P' L` numbers each way, however large the model is.

    Where each client knows few classes, the mean of their predictions is flat. A
    temperature below the spread of its entries sharpens it: 0.1 is DS-FL's ("entropy
    reduction"); None leaves the mean as it is. With one bit a probability
    (`simplex_quantize(1)`) clients vote.

    Public examples are never sent: everybody has them beforehand, and the round's key
    determines which of them are used in a round.

    Args:
      task: the model and its loss, one label an example. What a model says is read off
        its losses: `p(c | x)` is `exp(-loss)` where `c` is the label.
      public: inputs without labels, `[P, ...]`, as they are stored.
      num_classes: `L`, labels are in `[0, L)`.
      client_optimizer: of the training on own examples, started afresh each round.
      sample: `P'`, public examples that a round draws, each once; all when None.
      temperature: `T` above 0; the mean as it is when None.
      distill_rate: rate of the plain SGD of distillation, at the server and clients.
      distill_epochs: how often it goes through the public examples of a round.
      distill_batch: `B`, how many of them a step takes; a last one may be short.
      uplink: compressor of a client's soft labels, float32 `[P', L]`; `identity()` when
        None. With `sample` it must have no memory, which would be of other examples.
      downlink: compressor of the mean; its receiver has no memory. Where it was
        compressed, what is below 0 becomes 0 and each row is divided by its sum.
      execution: how a cohort is run; `scanned()` when None.
      keep_messages: return every message in `RoundInfo.messages`, for an audit.

    Returns:
      An `Algorithm` of `ServerState` and `ClientState`. `params` is the server's model,
      `personal` that of a client. `client_steps` counts steps of both kinds.

    Raises:
      ValueError: for sizes below one, a `sample` above P, a temperature or rate that is
        not above 0; from `init` for a model with running statistics, for a downlink
        whose receiver has memory, and for an uplink with memory beside `sample`; from a
        round for examples with more than one label each.

    >>> from fedjax_comp.compress import simplex_quantize
    >>> from fedjax_comp.models import classification, linear
    >>> task = classification(linear()(num_classes=10), input_shape=(8, 8, 1))
    >>> algorithm = fed_distill(
    ...     task,
    ...     public=jnp.ones((500, 8, 8, 1)),
    ...     num_classes=10,
    ...     client_optimizer=optax.sgd(0.1),
    ...     sample=100,
    ...     temperature=0.1,
    ...     uplink=simplex_quantize(1),
    ... )
    >>> server, client = algorithm.init(jax.random.key(0), task.init(jax.random.key(1)))
    >>> sum(x.size for x in jax.tree.leaves(algorithm.personal(server, client)))
    650
    """
    inputs = jax.tree.map(jnp.asarray, public)
    count = num_inputs(inputs)
    asked = count if sample is None else sample
    checks.integer("sample", asked, minimum=1, maximum=count)
    checks.integer("num_classes", num_classes, minimum=1)
    checks.integer("distill_epochs", distill_epochs, minimum=1)
    checks.integer("distill_batch", distill_batch, minimum=1)
    checks.positive("distill_rate", distill_rate)
    if temperature is not None:
        checks.positive("temperature", temperature)
    up = given("uplink", uplink)
    down = given("downlink", downlink)
    run_cohort = given_execution(execution)
    train = local_sgd(task, client_optimizer)
    like = jax.ShapeDtypeStruct((asked, num_classes), jnp.float32)

    def init(key: jax.Array, params: PyTree) -> tuple[ServerState, ClientState]:
        del key
        checks.gradients_alone("fed_distill()", params)
        if asked < count:
            why = (
                f"as the uplink of fed_distill() with sample={asked} of {count} public "
                "examples: every round has others; ask about all of them."
            )
            checks.memoryless(up, like, why)
        server = ServerState(params, partly_heard(down, like))
        return server, ClientState(params, up.init(like))

    def lesson_of(key: jax.Array, labels: jax.Array) -> Lesson:
        draw_key, order_key, model_key = jax.random.split(key, 3)
        # Numbers that a program holds are computed with while it is compiled.
        drawn = jax.lax.optimization_barrier(inputs)
        if asked < count:
            rows = jax.random.permutation(draw_key, count)[:asked]
            drawn = jax.tree.map(lambda x: x[rows], drawn)
        rows, mask = in_batches(order_key, asked, distill_epochs, distill_batch)
        return Lesson(drawn, labels, rows, mask, model_key)

    def client_fn(
        shared: tuple[jax.Array, Examples, Lesson],
        client: tuple[ClientBatches, ClientState, jax.Array],
    ) -> tuple[Summand, tuple[ClientState, Sent]]:
        up_key, examples, lesson = shared
        batches, state, rank = client
        own, info = train(state.own, examples, batches)
        summand, (link, sent) = send(
            up,
            make_context(up_key, batches.client_id, rank),
            soft_labels(task, own, lesson.inputs, lesson.labels),
            state.uplink,
            batches=batches,
            info=info,
            sound=all_finite(own),
            keep_message=keep_messages,
        )
        counted = summand.update.weight > 0
        return summand, (ClientState(where(counted, own, state.own), link), sent)

    def learn_fn(
        shared: tuple[Lesson, jax.Array], client: tuple[jax.Array, PyTree]
    ) -> tuple[jax.Array, PyTree]:
        (lesson, taught), (heard, own) = shared, client
        moved = distilled(task, own, lesson, taught, distill_rate)
        learnt = where(heard & all_finite(moved), moved, own)
        return jnp.zeros(()), learnt

    def run_round(
        key: jax.Array, server: ServerState, clients: ClientState, cohort: Cohort
    ) -> tuple[ServerState, ClientState, RoundInfo]:
        down_key, up_key, lesson_key = jax.random.split(key, 3)
        lesson = lesson_of(lesson_key, _labels(num_classes, cohort.examples.y))
        ids = cohort.clients.client_id
        ranks = jnp.arange(ids.shape[0], dtype=jnp.int32)
        total, (states, sent) = run_cohort(client_fn)(
            (up_key, cohort.examples, lesson), (cohort.clients, clients, ranks)
        )
        anyone = total.update.weight > 0
        taught = sharpened(weighted_mean(total.update), temperature)
        said = broadcast(down, make_context(down_key, 0), taught, server.downlink)
        heard = cohort.clients.active & anyone
        _, own = run_cohort(learn_fn)(
            (lesson, on_simplex(said.received)), (heard, states.own)
        )
        moved = distilled(task, server.params, lesson, taught, distill_rate)
        sound = all_finite(moved)
        info = round_info(
            total,
            sent,
            said.traffic(heard, ids),
            said.messages(heard.any()) if keep_messages else None,
            anyone & ~sound,
        )
        steps = lesson.rows.shape[0] * jnp.sum(heard, dtype=jnp.int32)
        after = ServerState(
            where(anyone & sound, moved, server.params),
            said.link_after(server.downlink, heard),
        )
        info = info._replace(client_steps=info.client_steps + steps)
        return after, ClientState(own, states.uplink), info

    return Algorithm(
        init,
        run_round,
        params=lambda server: server.params,
        personal=lambda server, client: client.own,
    )


def sharpened(mean: jax.Array, temperature: float | None) -> jax.Array:
    """The mean of soft labels as a distribution of less entropy.

        softmax(mean / T)

    whose argument is the mean itself and not its logarithm, as DS-FL has it.

    Args:
      mean: `[P, L]`; it may leave the simplex by what a compressor added.
      temperature: `T`; the mean itself, brought back to the simplex, when None.

    >>> round(float(sharpened(jnp.array([[0.5, 0.25, 0.25]]), 0.1)[0, 0]), 2)
    0.86
    """
    if temperature is None:
        return on_simplex(mean)
    return jax.nn.softmax(mean / temperature, axis=-1)


def _labels(num_classes: int, y: jax.Array) -> jax.Array:
    if y.ndim != 1:
        raise ValueError(
            f"Expected one label an example for fed_distill(), got labels "
            f"{list(y.shape)}: it asks for the loss of each label there is."
        )
    return jnp.arange(num_classes, dtype=y.dtype)
