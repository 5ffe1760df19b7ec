"""Federated averaging whose server sees the sum of the updates, and no single one.

Bonawitz et al., "Practical secure aggregation for privacy-preserving machine learning",
2017: clients agree on pairwise masks, send masked integers modulo `2**bits`, and the
masks cancel in the sum. The noise that may be added is that of Kairouz, Liu and
Steinke, "The distributed discrete Gaussian mechanism for federated learning with secure
aggregation", 2021.

Masks come from a fast hash here (`fedjax_comp.privacy.traced_masks`). The cost of keys,
shares and lists is counted from the records of `fedjax_comp.privacy.messages`, byte for
byte what `secure_sum` sends on the host. Masked words are uniform, so that no entropy
code can shorten them: every one costs all its bits.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_comp import checks, tree
from fedjax_comp.algorithms.client_update import Sent, round_info, sent_to_server
from fedjax_comp.algorithms.fed_avg import ServerState
from fedjax_comp.algorithms.links.given import (
    given,
    given_execution,
    given_server_optimizer,
)
from fedjax_comp.base import (
    MODELS_TOLD,
    SERVER,
    UPDATES_SENT,
    Algorithm,
    Bits,
    ClientBatches,
    Cohort,
    Compressor,
    Context,
    Ends,
    Examples,
    Execution,
    LinkState,
    Observed,
    PyTree,
    RoundInfo,
    Task,
    Traffic,
    make_context,
)
from fedjax_comp.client.sgd import LocalInfo, local_sgd
from fedjax_comp.privacy.distributed import bits_for_noise
from fedjax_comp.privacy.integers import (
    Grid,
    bits_for_sum,
    from_integers,
    has_floats,
    integer_grid,
    is_finite,
    largest_magnitude,
    length_of,
    require_floats,
    to_integers,
)
from fedjax_comp.privacy.messages import Count, agreement_bytes, checked_threshold
from fedjax_comp.privacy.qualify import payload_like, qualify
from fedjax_comp.privacy.traced_masks import (
    centred_in_jit,
    left_over,
    mask_of,
    modulus_mask,
)
from fedjax_comp.privacy.traced_noise import ClientNoise, noisy_integers
from fedjax_comp.server.broadcast import broadcast, heard_by_all
from fedjax_comp.server.update import Model, step_towards
from fedjax_comp.wire.fields import Symbols

_MASKS, _ROUNDING = (1 << 31) - 2, 1 << 16
"""Folded into the round's key and into a client's: stages fold small numbers."""


class _Summand(NamedTuple):
    residues: jax.Array  # uint32 [n + 1], added modulo 2**32
    info: LocalInfo
    dropped: jax.Array


class _Shared(NamedTuple):
    received: PyTree
    uplink_key: jax.Array
    agreed: jax.Array
    examples: Examples


def masked_link(uplink: Compressor) -> Compressor:
    """The link of masked messages, for audits: residues come out as they went in.

    A single masked message cannot be decoded to more than that; `decode` of the
    compressor itself is for their sum.
    """

    def encode(
        context: Context, value: PyTree, sender: PyTree
    ) -> tuple[PyTree, PyTree]:
        raise ValueError("A masked message is made of a whole cohort's keys.")

    def decode(
        context: Context, payload: Symbols, receiver: PyTree
    ) -> tuple[jax.Array, PyTree]:
        del context
        return payload.values, receiver

    return Compressor(uplink.init, encode, decode)


def secure_fed_avg(
    task: Task,
    *,
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation | None = None,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
    levels: int | None = None,
    limit: float | None = None,
    threshold: int | None = None,
    noise: ClientNoise | None = None,
    execution: Execution | None = None,
    proximal: float = 0.0,
    population: int | None = None,
    keep_messages: bool = False,
) -> Algorithm:
    """Federated averaging under a secure sum.

    With q_i the integers that client i's compressed update comes to and m_i its mask,

        client i sends y_i = (q_i, 1) + m_i                  modulo 2**bits,
        the server forms   (Q, c) = sum_i y_i - left over,   w <- w + D(Q) / c

    where D decodes the sum. Q is exactly the sum of the clients' integers: `bits` is
    large enough that no sum wraps. Every client has the same weight, however many
    examples it has, since that number is private, too.

    A client whose update is not finite leaves before it sends (it "drops out"), and the
    server removes what is left of its pairwise masks. With fewer than `threshold` of a
    cohort the sum is lost, as in the protocol. The last integer, c, must be the number
    of those who sent, and the others must lie within what so many can add up to: else
    masks are left in the sum, and it is lost. The server then takes no step, memories
    stay as they were, and all clients are counted in `RoundInfo.dropped`.

    Args:
      task: the model and its loss.
      client_optimizer: the local optimizer, started afresh each round.
      server_optimizer: `optax.sgd(1.0)` when None.
      uplink: compressor of the updates, one that `fedjax_comp.privacy.qualify` passes;
        `identity()` when None.
      downlink: compressor of the server's model; `identity()` when None.
      levels: of the grid that floats of the uplink are rounded to, odd; None where it
        sends integers (`common_range`), or with noise.
      limit: the largest magnitude on that grid; what lies beyond is clipped.
      threshold: how many must stay, in (C/2, C]; `2C // 3 + 1` when None.
      noise: what clients add before they mask: then floats alone are sent, clipped to
        `noise.clip` all together, and the sum is divided by `C`, whoever answered.
      execution: how a cohort is run; `scanned()` when None.
      proximal: FedProx's mu.
      population: `K`, needed only for a downlink whose receiver has memory.
      keep_messages: return every message in `RoundInfo.messages`, for an audit, but for
        those of the key agreement (`masked_link` reads the uplink's).

    Returns:
      An `Algorithm` of `ServerState` and, per client, the uplink's `LinkState`.
      Traffic has the kinds "uplink", "downlink", "agreement_up" and "agreement_down";
      `observed["lost_sums"]` counts rounds without a sum.

    Raises:
      ValueError: for one of `levels` and `limit` without the other, or beside noise,
        and for a `population` below one; from `init` for an uplink whose messages do
        not add, with the reason; from a round for fewer than 2 clients or more than the
        population, a threshold out of its range, or a sum beyond 31 bits.

    >>> import jax, optax
    >>> from fedjax_comp.compress import common_range
    >>> from fedjax_comp.models import classification, linear
    >>> task = classification(linear()(num_classes=10), input_shape=(8, 8, 1))
    >>> algorithm = secure_fed_avg(
    ...     task, client_optimizer=optax.sgd(0.1), uplink=common_range(255, limit=0.1)
    ... )
    >>> server, client = algorithm.init(jax.random.key(0), task.init(jax.random.key(1)))
    >>> client
    LinkState(sender=(), receiver=())
    """
    grid = _grid(levels, limit, noise)
    checks.population(population)
    update_server = given_server_optimizer(server_optimizer)
    up = given("uplink", uplink)
    down = given("downlink", downlink)
    run_cohort = given_execution(execution)
    train = local_sgd(task, client_optimizer, proximal=proximal)

    def init(key: jax.Array, params: PyTree) -> tuple[ServerState, LinkState]:
        del key
        wide = tree.widened(params)  # sums of half precision would overflow
        template = qualify(up, wide)
        if noise is not None:
            require_floats(template)
        elif grid is None and has_floats(template):
            raise ValueError(
                "Expected a grid for an uplink of floats, such as "
                "secure_fed_avg(levels=1023, limit=0.1), or --uplink="
                "'common_range(1023, limit=0.1)': only integers are masked."
            )
        model = Model(params, update_server.init(params))
        return ServerState(model, heard_by_all(down, params, population)), up.init(wide)

    def run_round(
        key: jax.Array, server: ServerState, clients: LinkState, cohort: Cohort
    ) -> tuple[ServerState, LinkState, RoundInfo]:
        agreed, ids = cohort.clients.active, cohort.clients.client_id
        checks.fits_population(agreed.shape[0], population)
        wide = tree.widened(server.model.params)
        template = payload_like(up, wide)
        n = length_of(template)
        fewest = checked_threshold(threshold, agreed.shape[0])
        bits, largest = _room(template, grid, noise, parties=agreed.shape[0])
        down_key, up_key = jax.random.split(key)
        masks_key = jax.random.fold_in(up_key, _MASKS)
        said = broadcast(
            down, make_context(down_key, 0), server.model.params, server.downlink
        )

        def client_fn(
            shared: _Shared, client: tuple[ClientBatches, LinkState, jax.Array]
        ) -> tuple[_Summand, tuple[LinkState, Sent]]:
            batches, link, place = client
            local, info = train(shared.received, shared.examples, batches)
            update = tree.widened(optax.tree.sub(local, shared.received))
            healthy = tree.all_finite(update)
            context = make_context(shared.uplink_key, batches.client_id, place)
            harmless = tree.where(healthy, update, optax.tree.zeros_like(update))
            payload, sender = up.encode(context, harmless, link.sender)
            own_key = jax.random.fold_in(context.client_key, _ROUNDING)
            integers = _integers(own_key, payload, grid, noise)
            speaks = batches.active & healthy & is_finite(payload)
            words = jnp.append(integers, 1).astype(jnp.uint32)
            mask_key = jax.random.fold_in(shared.uplink_key, _MASKS)
            mask = mask_of(mask_key, place, shared.agreed, n + 1, bits=bits)
            masked = (words + mask) & modulus_mask(bits)
            summand = _Summand(
                residues=jnp.where(speaks, masked, 0),
                info=tree.where(speaks, info, optax.tree.zeros_like(info)),
                dropped=(batches.active & ~speaks).astype(jnp.int32),
            )
            remembered = tree.where(speaks, LinkState(sender, link.receiver), link)
            message = sent_to_server(
                context,
                Symbols(masked, 1 << bits),
                link.receiver,
                speaks,
                client_id=batches.client_id,
                used=masked,
                keep_message=keep_messages,
            )
            return summand, (remembered, message)

        shared = _Shared(said.received, up_key, agreed, cohort.examples)
        places = jnp.arange(agreed.shape[0], dtype=jnp.int32)
        total, (states, sent) = run_cohort(client_fn)(
            shared, (cohort.clients, clients, places)
        )
        left = left_over(masks_key, sent.spoke, agreed, n + 1, bits=bits)
        seen = centred_in_jit(total.residues - left, bits)
        integers, count = seen[:-1], jnp.sum(sent.spoke, dtype=jnp.int32)
        there = (
            (count >= fewest)
            & (seen[-1] == count)
            & (largest is None or jnp.max(jnp.abs(integers)) <= count * largest)
        )
        summed, _ = up.decode(
            make_context(up_key, 0),
            from_integers(integers, template, grid),
            up.init(wide).receiver,
        )
        counted = jnp.maximum(count, 1).astype(jnp.float32)
        parties = counted if noise is None else jnp.float32(agreed.shape[0])
        mean = jax.tree.map(lambda x: x / parties.astype(x.dtype), summed)
        stepped, refused = step_towards(update_server, server.model, mean, there)
        kept = tree.where(there, states, clients)
        heard = said.traffic_of_round(agreed, ids, population)
        invited = jnp.sum(agreed, dtype=jnp.int32)
        dropped = jnp.where(there & ~refused, total.dropped, invited)
        info = round_info(
            total._replace(dropped=dropped),
            sent,
            heard,
            said.messages(agreed.any()) if keep_messages else None,
        )
        info = info._replace(
            traffic={**info.traffic, **_agreement(agreed, sent.spoke, ids)},
            observed={
                "lost_sums": Observed((~there).astype(jnp.float32)),
                UPDATES_SENT: Observed(count.astype(jnp.float32)),
                MODELS_TOLD: Observed(jnp.sum(heard.spoke, dtype=jnp.float32)),
            },
        )
        link = said.link_after(server.downlink, agreed, population)
        return ServerState(stepped, link), kept, info

    return Algorithm(
        init=init, round=run_round, params=lambda server: server.model.params
    )


def _grid(
    levels: int | None, limit: float | None, noise: ClientNoise | None
) -> Grid | None:
    """What floats stand on: three levels of a step apart are any number of them."""
    if (levels is None) != (limit is None):
        raise ValueError(
            f"Expected levels={levels} and limit={limit} together: they are one grid."
        )
    if noise is not None:
        if levels is not None:
            raise ValueError(
                f"Expected no levels={levels} beside noise, whose step is the grid's."
            )
        return Grid(3, noise.step)
    if levels is None or limit is None:
        return None
    return integer_grid(levels, limit=limit)


def _room(
    template: PyTree, grid: Grid | None, noise: ClientNoise | None, *, parties: int
) -> tuple[int, int | None]:
    """Bits of the modulus, and the largest integer of a client; None beside noise."""
    if noise is None:
        largest = largest_magnitude(template, grid)
        bits = bits_for_sum(parties, largest)
    else:
        largest = None
        bits = bits_for_noise(
            noise.rounding(length_of(template)), parties, noise.stddev
        )
    if bits > 31:
        raise ValueError(
            f"Expected a sum of at most 31 bits, got {bits}: take fewer levels, or a "
            "smaller model."
        )
    return bits, largest


def _integers(
    key: jax.Array, payload: PyTree, grid: Grid | None, noise: ClientNoise | None
) -> jax.Array:
    if noise is None:
        return to_integers(key, payload, grid)
    floats = [part.astype(jnp.float32) for part in jax.tree.leaves(payload)]
    return noisy_integers(key, tree.ravel(floats), noise)


def _agreement(
    agreed: jax.Array, spoke: jax.Array, ids: jax.Array
) -> dict[str, Traffic]:
    """Three messages of each client and three to it, one behind another, `[3 C]`."""
    count = jnp.sum(agreed, dtype=jnp.uint32)
    each = agreement_bytes(count, jnp.sum(spoke, dtype=jnp.uint32))
    sent = jnp.concatenate([agreed, agreed, spoke])
    clients = jnp.tile(ids.astype(jnp.int32), 3)
    server = jnp.full_like(clients, SERVER)

    def traffic(lengths: tuple[Count, ...], ends: Ends) -> Traffic:
        bits = 8 * jnp.stack([jnp.asarray(x, jnp.uint32) for x in lengths])
        return Traffic(Bits(0, (jnp.repeat(bits, agreed.shape[0]),)), sent, ends)

    return {
        "agreement_up": traffic(each.sent, Ends(clients, server)),
        "agreement_down": traffic(each.received, Ends(server, clients)),
    }
