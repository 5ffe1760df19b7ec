"""Whether the model of a finished run has learned, and from how many updates.

How the last round in which anyone trained went is noted in `Ledger.conditions`, and so
in every checkpoint: a run that is killed after its last round, and resumed, comes to
the same verdict.
"""

import math

import jax
import numpy as np

from fedjax_comp.base import MODELS_TOLD, UPDATES_SENT, RoundInfo
from fedjax_comp.metrics import Ledger
from fedjax_comp.training import Dispatch
from fedjax_comp.wire.traffic import totals

LOST, NOT_FINITE = "last_round_dropped", "last_loss_not_finite"
"""In `Ledger.conditions`, for as long as it is so."""


def note_last_round(ledger: Ledger, dispatch: Dispatch) -> None:
    """Notes in a ledger how the last round went in which anyone trained.

    A dispatch in whose rounds nobody trained says nothing about the model: the note
    from before stays.
    """
    infos = dispatch.infos
    losses, steps, dropped = (
        np.asarray(x)[: int(dispatch.num_rounds)]
        for x in (infos.train_loss, infos.client_steps, infos.dropped)
    )
    trained = np.flatnonzero(~np.isnan(losses) | (steps > 0) | (dropped > 0))
    if not trained.size:
        return
    last = trained[-1]
    loss, left_out = losses[last], dropped[last]
    noted = {
        LOST: left_out > 0
        and (np.isnan(loss) or left_out >= _sent_by_all(infos, last)),
        NOT_FINITE: np.isinf(loss) or (np.isnan(loss) and steps[last] > 0),
    }
    for name, is_so in noted.items():
        ledger.conditions.pop(name, None)
        if is_so:
            ledger.conditions[name] = True


def _sent_by_all(infos: RoundInfo, index: int) -> float:
    """How many updates came in a round, if all came; else infinity.

    Where some stayed silent, as many that were dropped may be others than those that
    came.
    """
    own = jax.tree.map(lambda x: np.asarray(x)[index : index + 1], infos)
    messages = totals(own.traffic)
    sent, told = messages.uplink_messages, messages.downlink_messages
    if UPDATES_SENT in own.observed and MODELS_TOLD in own.observed:
        sent, told = (own.observed[n].value.item() for n in (UPDATES_SENT, MODELS_TOLD))
    return sent if sent >= told > 0 else math.inf


def updates_made(*, dropped: int, sent: int, told: int) -> int:
    """How many updates clients have made, including those that were dropped.

    Args:
      dropped: updates left out of a sum.
      sent: updates that travelled, some of which may have been dropped.
      told: models that clients were sent, including those sent to clients that train
        on none of them but follow every one.

    >>> updates_made(dropped=110, sent=90, told=200)
    200
    >>> updates_made(dropped=2, sent=10, told=10)
    10
    """
    return min(max(dropped, sent, told), dropped + sent)


def failures_of(ledger: Ledger, is_untrained: bool) -> list[str]:
    """Why a finished run's model has not learned, or no longer does; `[]` if it does.

    Args:
      ledger: of the whole run.
      is_untrained: whether the model is still the initial one.

    Returns:
      A line for each reason.

    >>> failures_of(Ledger(rounds=2, dropped=6, client_steps=9), is_untrained=True)
    ['all updates were dropped (6 in 2 rounds): the model is what it was at the start.']
    """
    found = []
    rounds = f"{ledger.rounds} rounds" if ledger.rounds != 1 else "1 round"
    if ledger.dropped and is_untrained:
        found.append(
            f"all updates were dropped ({ledger.dropped} in {rounds}): the model is "
            "what it was at the start."
        )
    elif ledger.rounds and not ledger.client_steps and not ledger.uplink_messages:
        found.append(f"nobody arrived in {rounds}: no client trained or sent anything.")
    elif ledger.conditions.get(LOST):
        found.append(
            "all updates of the last round were dropped, and "
            f"{ledger.dropped:,} in all: the model no longer learns."
        )
    if ledger.conditions.get(NOT_FINITE):
        found.append("the training loss at the end is not finite.")
    if ledger.rows and ledger.rows[-1]["test_loss"] is None:
        found.append("the test loss at the end is not finite.")
    return found
