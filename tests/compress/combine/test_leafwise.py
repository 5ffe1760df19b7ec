"""What a later stage of a chain may find."""

import jax.numpy as jnp
import pytest

from fedjax_comp.compress.combine.leafwise import require_open
from fedjax_comp.wire.fields import Raw


def test_require_open_counts_only_later_stages():
    require_open("stage", {})
    require_open("stage", [jnp.arange(2)])
    require_open("stage", [Raw(jnp.ones(2)), jnp.ones(2)])
    with pytest.raises(ValueError, match="for stage to act on"):
        require_open("stage", [Raw(jnp.ones(2)), jnp.arange(2)])
