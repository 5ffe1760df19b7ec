"""A model that no longer learns at the end is told from one that does."""

import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.base import (
    MODELS_TOLD,
    UPDATES_SENT,
    Bits,
    Observed,
    RoundInfo,
    Traffic,
)
from fedjax_comp.ending import failures_of, note_last_round, updates_made
from fedjax_comp.metrics import Ledger
from fedjax_comp.training import Dispatch
from fedjax_comp.wire.traffic import to_client, to_server

NAN, INF = float("nan"), float("inf")
CLIENTS = 4
DROPPED = "all updates of the last round were dropped"
LOSS = "the training loss at the end is not finite"


def dispatch(*rounds, **observed):
    """Each round is `(loss, steps, dropped, sent, told)`; one of padding follows."""
    loss, steps, dropped, sent, told = zip(*rounds, (0.0, 9, 0, 0, 0), strict=True)
    ids = jnp.broadcast_to(jnp.arange(CLIENTS), (len(loss), CLIENTS))
    up, down = (np.arange(CLIENTS) < np.array(x)[:, None] for x in (sent, told))
    info = RoundInfo(
        train_loss=jnp.array(loss, jnp.float32),
        client_steps=jnp.array(steps, jnp.int32),
        dropped=jnp.array(dropped, jnp.int32),
        traffic={
            "uplink": Traffic(Bits(8), up, to_server(ids)),
            "downlink": Traffic(Bits(8), down, to_client(ids)),
        },
        observed={
            name: Observed(jnp.full(len(loss), value, jnp.float32))
            for name, value in observed.items()
        },
        messages={},
    )
    return Dispatch(info, {}, jnp.int32(len(rounds)))


SOUND, SILENT, NOBODY = (0.5, 8, 0, 4, 4), (NAN, 0, 4, 0, 4), (NAN, 0, 0, 0, 4)


@pytest.mark.parametrize(
    ("rounds", "expected"),
    [
        ([SOUND], None),
        ([SILENT], DROPPED),
        ([SOUND, SILENT], DROPPED),
        ([SILENT, SOUND], None),
        ([SILENT, NOBODY], DROPPED),
        ([SOUND, NOBODY], None),
        ([(0.5, 8, 4, 4, 4)], DROPPED),  # sent, and none of them decoded
        ([(0.5, 4, 3, 1, 4)], None),  # three silent clients, and one that counts
        ([(0.5, 4, 4, 2, 4)], None),  # too few came, and theirs are dropped as well
        ([(0.5, 4, 3, 1, 0)], None),  # told nothing: how many there were is not known
        ([(INF, 8, 0, 4, 4)], LOSS),
        ([(NAN, 8, 0, 4, 4)], LOSS),
    ],
)
def test_the_last_round_in_which_anyone_trained_counts(rounds, expected):
    once, one_by_one = Ledger(), Ledger()
    note_last_round(once, dispatch(*rounds))
    for each in rounds:
        note_last_round(one_by_one, dispatch(each))
    assert once.conditions == one_by_one.conditions
    once.rounds, once.dropped, once.client_steps = 9, 1, 1
    told = failures_of(once, is_untrained=False)
    assert len(told) == (expected is not None)
    assert all(expected in line for line in told)


def test_messages_beside_the_updates_are_not_counted():
    ledger = Ledger()
    counted = {UPDATES_SENT: 2, MODELS_TOLD: 2}
    note_last_round(ledger, dispatch((0.5, 8, 2, 4, 4)))
    assert not ledger.conditions
    note_last_round(ledger, dispatch((0.5, 8, 2, 4, 4), **counted))
    assert ledger.conditions


def test_other_conditions_stay():
    ledger = Ledger(conditions={"ready": [0.0]})
    note_last_round(ledger, dispatch(SILENT))
    note_last_round(ledger, dispatch(SOUND))
    assert ledger.conditions == {"ready": [0.0]}


def test_an_update_that_was_sent_and_dropped_is_one():
    assert updates_made(dropped=4, sent=4, told=4) == 4
    assert updates_made(dropped=3, sent=3, told=4) == 4
    # A broadcast to a whole population says nothing of a cohort.
    assert updates_made(dropped=3, sent=1, told=100) == 4
    assert updates_made(dropped=0, sent=4, told=100) == 4
