"""A setting's limits: the last value allowed, and the first that is not."""

import pytest

from fedjax_comp.privacy.messages import secure_setting

LIMITS = [("parties", 2, 65535), ("bits", 1, 64), ("threshold", 6, 10), ("n", 1, None)]


@pytest.mark.parametrize(("name", "least", "most"), LIMITS)
def test_limits_are_where_the_docstring_says(name, least, most):
    def setting(value):
        others = {"parties": 10, "n": 1, "bits": 8, "tag": b"round"}
        return secure_setting(**{**others, name: value})

    assert getattr(setting(least), name) == least
    with pytest.raises(ValueError, match=f"{name}={least - 1}"):
        setting(least - 1)
    if most is not None:
        assert getattr(setting(most), name) == most
        with pytest.raises(ValueError, match=f"{name}={most + 1}"):
            setting(most + 1)
