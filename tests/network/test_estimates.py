"""What a controller knows of the training, from what the server heard."""

import numpy as np
import pytest

from fedjax_comp.invited import Invited
from fedjax_comp.metrics import Ledger
from fedjax_comp.network.estimates import statistics_of


@pytest.mark.parametrize("lost", [np.inf, np.nan])
def test_a_message_that_is_not_finite_tells_nothing(lost):
    """Its client counts as one not heard yet: as the mean of the others."""
    ledger = Ledger()
    ledger.conditions.update(
        heard_errors=[1.0, 0.0, 0.0],
        train_loss=None,
        update_energy=1.0,
        update_weight=1.0,
    )
    ids = np.arange(3)
    invited = Invited(ids, np.array([1, 1, 2]), ids, np.ones(3, bool))  # type: ignore[arg-type]
    heard = np.array([[4.0, 0.0], [2.0, 6.0], [lost, 1.0]], np.float32)
    known = statistics_of(ledger, invited, heard, np.array([1, 1]))
    assert known.energies.tolist() == [2.0, 8.0, 5.0]  # halved, as it is, their mean
    none = statistics_of(ledger, invited, np.full_like(heard, lost), np.array([1, 1]))
    assert np.all(none.energies == 2.0)
