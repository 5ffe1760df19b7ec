"""Recorded updates: what is recorded is what the training that is named sends."""

import jax
import numpy as np
import pytest

from experiments.rate_distortion import sources
from experiments.rate_distortion.flags import define
from experiments.rate_distortion.sources import RECORDED, Recording
from fedjax_comp.data.sources import NAMES as DATASETS
from fedjax_comp.experiment.expressions import build
from fedjax_comp.experiment.flags import common_flags

SMALL = {
    "dataset": "digits",
    "model": "linear()",
    "partition": "iid(size=20)",
    "num_clients": 5,
    "cohort_size": 2,
}


@pytest.mark.parametrize("name", RECORDED)
def test_the_training_of_every_recording_can_be_built(name):
    recording = RECORDED[name]
    values = common_flags(**recording.flags)
    values([""])
    for flag in ("model", "partition", "client_optimizer"):
        build(flag, values[flag].value)
    assert values.dataset in DATASETS
    # Clients of an uplink are as many as were asked for.
    assert ("cohort_size" in recording.flags) == (recording.link == "downlink")


@pytest.mark.thorough
def test_downlinks_are_what_the_server_s_model_changes_by(monkeypatch):
    """With clients of one size, the mean of what is sent; one round after the other."""
    values = define()
    values(["", "--num_clients=2", "--update_rounds=3"])

    def record(**how):
        monkeypatch.setitem(sources.RECORDED, "small", Recording(SMALL, **how))
        return jax.tree.map(np.asarray, sources.train("small", values))

    uplinks = [record(rounds=2), record()]
    down = record(rounds=2, link="downlink")
    for i, sent in enumerate(uplinks):
        for one, other in zip(
            jax.tree.leaves(down), jax.tree.leaves(sent), strict=True
        ):
            assert one.shape == other.shape
            np.testing.assert_allclose(one[i], other.mean(0), atol=1e-6)
    assert any(np.abs(a[0] - a[1]).max() > 1e-3 for a in jax.tree.leaves(uplinks[0]))
