"""Models that come back from disk as what they were, and files that are no models."""

import json
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.flax
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
        models.char_transformer()(7),
        models.cnn(convolve=models.conv_lax)(7),
        models.fed_para(models.mlp(5), rank=2)(7),
        models.linear()(7),
        models.mlp(5)(7),
        models.resnet()(7),
        models.resnet18()(7),
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
        '{"format": 1, "module": "MLP", "settings": {}}',
        '{"format": 2, "module": "MLP", "settings": {}}',
        '{"format": 2}',
        "[]",
        "{",
        "[" * 100_000,
        '{"format": ' + "1" * 5_000 + "}",
    ],
)
def test_a_file_that_describes_no_module_is_refused(tmp_path, text):
    save_model(tmp_path, models.mlp(2)(2), {})
    (tmp_path / ARCHITECTURE).write_text(text)
    with pytest.raises(ValueError, match="Expected"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    "description",
    [
        {"module": "os.system", "settings": {}},
        {"module": "MLP", "settings": {"depth": 3}},
        {"module": "MLP", "settings": []},
        {"module": ["MLP"], "settings": {}},
        {},
    ],
)
def test_a_description_of_no_module_is_refused(description):
    with pytest.raises(ValueError, match="Expected the description of a module"):
        build_module(description)


def test_a_model_that_was_changed_since_is_never_loaded(tmp_path):
    params = models.mlp(2)(2).init(jax.random.key(0), jnp.ones((1, 3)))["params"]
    save_model(tmp_path, models.mlp(2)(2), params)
    same = {ARCHITECTURE: 0, PARAMETERS: 0}
    numbers = random.Random(3)
    for name in same:
        path = tmp_path / name
        whole = path.read_bytes()
        for _ in range(200):
            text = bytearray(whole)
            text[numbers.randrange(len(text))] ^= 1 << numbers.randrange(8)
            path.write_bytes(text)
            try:
                loaded = load_model(tmp_path)
            except ValueError:
                continue
            # White space between the tokens of JSON.
            same[name] += 1
            assert loaded.module == models.mlp(2)(2)
            jax.tree.map(np.testing.assert_array_equal, loaded.params, params)
        path.write_bytes(whole)
    assert same[PARAMETERS] == 0
    assert same[ARCHITECTURE] < 40


def test_other_programs_read_the_parameters(tmp_path):
    tree = {"a": {"kernel": jnp.arange(6.0).reshape(2, 3)}, "b": jnp.bfloat16(1.5)}
    save_model(tmp_path, models.mlp(2)(2), tree)
    read = safetensors.flax.load_file(tmp_path / PARAMETERS)
    assert read.keys() == {"a/kernel", "b"}
    np.testing.assert_array_equal(read["a/kernel"], tree["a"]["kernel"])
    assert load_model(tmp_path).params["b"].dtype == jnp.bfloat16


def test_what_could_not_be_read_back_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="Dense"):
        save_model(tmp_path / "a", nn.Dense(3), {})
    own = models.cnn(convolve=lambda x, kernel: x)(2)
    with pytest.raises(ValueError, match="conv_direct"):
        save_model(tmp_path / "b", own, {})


def test_a_directory_may_be_named_by_a_text(tmp_path):
    module, x = models.linear()(2), jnp.ones((1, 3))
    params = module.init(jax.random.key(0), x)["params"]
    save_model(str(tmp_path / "model"), module, params)
    loaded = load_model(str(tmp_path / "model"))
    jax.tree.map(np.testing.assert_array_equal, loaded.params, params)
