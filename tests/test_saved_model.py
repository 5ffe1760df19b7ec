"""Models that come back from disk as what they were, and files that are no models."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from fedjax_comp import models
from fedjax_comp.saved_model import (
    ARCHITECTURE,
    PARAMETERS,
    build_module,
    describe,
    load_model,
    save_model,
)


def test_a_factorized_model_comes_back_bit_for_bit(tmp_path):
    module = models.cnn((4,), hidden=8, convolve=models.conv_direct)(3)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 1)), jnp.float32)
    params = jax.jit(module.init)(jax.random.key(0), x)["params"]
    compact = models.factorize(module, params, energy=0.5)
    assert compact.module.ranks
    save_model(tmp_path / "compact", compact.module, compact.params)
    loaded = load_model(tmp_path / "compact")
    assert loaded.module == compact.module
    run = [jax.jit(m.apply)({"params": p}, x) for m, p in (compact, loaded)]
    np.testing.assert_array_equal(*run)
    files = sorted(path.name for path in (tmp_path / "compact").iterdir())
    assert files == [ARCHITECTURE, PARAMETERS]


def test_every_factory_s_module_is_described_in_json():
    built = [
        models.char_lstm()(7),
        models.cnn(convolve=models.conv_lax)(7),
        models.fed_para_mlp(5, rank=2)(7),
        models.linear()(7),
        models.mlp(5)(7),
        models.resnet()(7),
        models.vgg()(7),
    ]
    assert len(built) == len(models.FACTORIES)
    for module in built:
        assert build_module(json.loads(json.dumps(describe(module)))) == module


def test_a_directory_without_a_whole_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match=ARCHITECTURE):
        load_model(tmp_path)
    save_model(tmp_path, models.mlp(2)(2), {})
    (tmp_path / PARAMETERS).unlink()
    with pytest.raises(ValueError, match=PARAMETERS):
        load_model(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        '{"format": 0, "module": "MLP", "settings": {}}',
        '{"format": 1, "module": "os.system", "settings": {}}',
        '{"format": 1, "module": "MLP", "settings": {"depth": 3}}',
        '{"format": 1}',
        "[]",
    ],
)
def test_a_file_that_describes_no_module_is_refused(tmp_path, text):
    save_model(tmp_path, models.mlp(2)(2), {})
    (tmp_path / ARCHITECTURE).write_text(text)
    with pytest.raises(ValueError, match="Expected"):
        load_model(tmp_path)


def test_what_could_not_be_read_back_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="Dense"):
        save_model(tmp_path / "a", nn.Dense(3), {})
    own = models.cnn(convolve=lambda x, kernel: x)(2)
    with pytest.raises(ValueError, match="conv_direct"):
        save_model(tmp_path / "b", own, {})
