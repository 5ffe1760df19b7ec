"""One measurement of each method: its accuracy and the bytes that it took."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data_collaboration.flags import Variant
from experiments.data_collaboration.learn import Learning
from fedjax_comp.base import Compressor, Examples, make_context
from fedjax_comp.one_shot import collusion
from fedjax_comp.one_shot.data_collaboration import Shared, collaborate
from fedjax_comp.one_shot.data_dispatch import shipment
from fedjax_comp.one_shot.private_maps import apply_map
from fedjax_comp.one_shot.row_noise import noised, row_epsilon
from fedjax_comp.run_directory import Json
from fedjax_comp.wire.accounting import message_bytes
from fedjax_comp.wire.message import HEADER_BYTES, to_bytes

DELTA = 1e-5
"""Of the epsilon of noised rows."""


def individual(
    learning: Learning, key: jax.Array, users: Sequence[Examples], test: Examples
) -> Json:
    """Everybody alone; the mean accuracy of the first five."""
    alone = users[:5]
    models = learning.train(key, alone)
    scores = [learning.score(model, test) for model in models]
    return _row(float(np.mean(scores)), 0, 0)


def centralised(
    learning: Learning,
    key: jax.Array,
    users: Sequence[Examples],
    test: Examples,
    *,
    stored: jax.ShapeDtypeStruct,
    num_classes: int,
) -> Json:
    """Raw data on one machine, as they are stored; the model comes back."""
    together: Examples = jax.tree.map(lambda *x: np.concatenate(x), *users)
    (model,) = learning.train(key, [together])
    sent = 0
    for user in users:
        raw = jnp.zeros((len(user.y), *stored.shape), stored.dtype)
        sent += message_bytes(shipment(Examples(raw, user.y), num_classes))
    returned = len(users) * message_bytes(model)
    return _row(learning.score(model, test), sent, returned)


def federated_averaging(
    learning: Learning, key: jax.Array, users: Sequence[Examples], test: Examples
) -> Json:
    """FedAvg over all users, one local epoch a round."""
    model, ledger = learning.average(key, users)
    return _row(learning.score(model, test), ledger.uplink_bytes, ledger.downlink_bytes)


def collaboration(
    learning: Learning,
    key: jax.Array,
    users: Sequence[Examples],
    public: np.ndarray,
    test: Examples,
    variant: Variant,
    link: Compressor,
    dimension: int,
) -> Json:
    """One upload of each user; every user predicts with its own map.

    What the server learns together with the first user is measured beside it:
    `recovered_cosine` of the others' inputs, and `guessed_cosine` without a message.

    Args:
      learning: on inputs of width `dimension`.
      key: of everything random.
      users: whose examples.
      public: inputs for the anchor, `[P, d]`.
      test: scored by every user with its own map; the mean counts.
      variant: anchor, private maps and noise.
      link: of the upload; a compiled one will do.
      dimension: of the common space.
    """
    anchor_key, map_key, send_key, train_key = jax.random.split(key, 4)
    noise_key = jax.random.fold_in(map_key, len(users))
    anchor = variant.anchor(anchor_key, jnp.asarray(public))
    maps, received, sent = [], [], 0
    for i, user in enumerate(users):
        x = jnp.asarray(user.x)
        private = variant.fit(jax.random.fold_in(map_key, i), x)
        image = apply_map(private, x)
        if variant.noise is not None:
            image = noised(jax.random.fold_in(noise_key, i), image, variant.noise)
        shared = Shared(image, apply_map(private, anchor), jnp.asarray(user.y))
        state = link.init(shared)
        context = make_context(send_key, i)
        message, _ = link.encode(context, shared, state.sender)
        sent += len(to_bytes(message)) - HEADER_BYTES
        received.append(link.decode(context, message, state.receiver)[0])
        maps.append(private)
    common = collaborate([one.anchor for one in received], dimension)
    parts = [np.asarray(one.x @ g) for one, g in zip(received, common, strict=True)]
    labels = np.concatenate([np.asarray(one.labels) for one in received])
    (model,) = learning.train(train_key, [Examples(np.concatenate(parts), labels)])
    scores = [
        learning.score(model, Examples(apply_map(private, test.x) @ g, test.y))
        for private, g in zip(maps, common, strict=True)
    ]
    returned = sum(message_bytes(g) + message_bytes(model) for g in common)
    noise = variant.noise
    told = collusion.leakage(
        np.asarray(anchor),
        [np.asarray(one.anchor) for one in received],
        [np.asarray(one.x) for one in received],
        [user.x for user in users],
        noise_variance=0.0 if noise is None else noise.variance,
    )
    return {
        **_row(float(np.mean(scores)), sent, returned),
        "recovered_cosine": told and told.cosine,
        "guessed_cosine": told and told.guessed,
        "row_epsilon": noise and row_epsilon(noise, delta=DELTA),
    }


def _row(accuracy: float, uplink_bytes: int, downlink_bytes: int) -> Json:
    return {
        "test_accuracy": accuracy,
        "uplink_bytes": uplink_bytes,
        "downlink_bytes": downlink_bytes,
        "total_bytes": uplink_bytes + downlink_bytes,
    }
