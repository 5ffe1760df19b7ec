"""Models cut in parts: the parts together are the whole, whatever the cut."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from fedjax_comp import models
from fedjax_comp.base import Examples
from fedjax_comp.models.split import cuts, params_of, split, split_classification
from fedjax_comp.models.vertical import vertical_classification

ZOO = {
    "mlp": (models.mlp(8, 6), (5,), "float32"),
    "cnn": (models.cnn((4,), hidden=7), (4, 4, 1), "float32"),
    "char_lstm": (models.char_lstm(4, widths=(5, 5)), (6,), "int32"),
    "char_transformer": (models.char_transformer(4, depth=1, heads=2), (6,), "int32"),
    "fed_para": (models.fed_para(models.mlp(6), rank=2), (8,), "float32"),
}
NUM_CLASSES = 3


def inputs(shape, dtype, count=2):
    if dtype == "int32":
        return jax.random.randint(jax.random.key(1), (count, *shape), 0, NUM_CLASSES)
    return jax.random.normal(jax.random.key(1), (count, *shape))


@pytest.mark.parametrize("name", ZOO)
def test_the_parts_compute_what_the_whole_does_at_every_cut(name):
    model, shape, dtype = ZOO[name]
    module, x = model(NUM_CLASSES), inputs(*ZOO[name][1:])
    params = jax.jit(module.init)(jax.random.key(0), x)["params"]
    there_are = cuts(module, input_shape=shape, input_dtype=dtype)
    assert there_are
    divided = [
        split(module, [cut], input_shape=shape, input_dtype=dtype) for cut in there_are
    ]

    @jax.jit
    def in_parts(params, x):
        outputs = []
        for bottom, top in divided:
            hidden = bottom.apply(params_of(bottom.names, params), x)
            outputs.append(top.apply(params_of(top.names, params), hidden))
        return outputs

    whole = jax.jit(module.apply)({"params": params}, x)
    for outputs in in_parts(params, x):
        np.testing.assert_allclose(outputs, whole, atol=1e-5)
    for bottom, top in divided:
        below, above = (set(params_of(p.names, params)) for p in (bottom, top))
        assert below | above == set(params)
        assert not below & above


@pytest.mark.thorough
@pytest.mark.parametrize(
    "model", [models.resnet(14, width=8), models.vgg((4, 4), hidden=5)]
)
def test_deep_models_are_cut_between_any_two_layers(model):
    module, x = model(NUM_CLASSES), jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    params = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    there_are = cuts(module, input_shape=x.shape[1:])
    for cut in there_are:
        hidden = x
        for part in split(module, [cut], input_shape=x.shape[1:]):
            own = params_of(part.names, params)
            hidden = jax.eval_shape(part.apply, own, hidden)
        assert hidden.shape == (2, NUM_CLASSES)
    # The first layer is no cut: before it there is nothing.
    assert len(there_are) == len(params) - 1


def test_several_cuts_make_several_parts():
    module, x = models.mlp(8, 6)(NUM_CLASSES), inputs((5,), "float32")
    params = module.init(jax.random.key(0), x)["params"]
    parts = split(module, ["Dense_1", "Dense_2"], input_shape=(5,))
    widths = []
    for part in parts:
        x = part.apply(params_of(part.names, params), x)
        widths.append(x.shape[1])
    assert widths == [8, 6, NUM_CLASSES]


class Around(nn.Module):
    """A shortcut around the second layer, then a layer behind it."""

    @nn.compact
    def __call__(self, x):
        hidden = nn.Dense(4)(x)
        around = nn.relu(nn.Dense(4)(hidden)) + hidden
        return nn.Dense(3)(around)


class Twice(nn.Module):
    """One layer used on both sides of the others."""

    @nn.compact
    def __call__(self, x):
        same = nn.Dense(4)
        other = nn.Dense(4)(same(x))
        return same(other)


class Own(nn.Module):
    """A parameter outside of the layers."""

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", nn.initializers.ones, ())
        return scale * nn.Dense(3)(nn.Dense(4)(x))


@pytest.mark.parametrize(
    ("module", "at", "message"),
    [
        (models.mlp(8)(3), ["Dense_7"], "cut='Dense_7' .* there are Dense_1"),
        (models.mlp(8)(3), ["Dense_0"], "cut='Dense_0' .* there are Dense_1"),
        (models.mlp(8)(3), [], "at least one cut; there are Dense_1"),
        (models.mlp(8, 8)(3), ["Dense_2", "Dense_1"], "in the model's order"),
        (models.linear()(3), ["Dense_1"], "there is none"),
        (Around(), ["Dense_1"], "before Dense_1 there is a way around it"),
        (Twice(), ["Dense_1"], "Dense_0 on both"),
        (Own(), ["Dense_1"], "Own has scale of its own"),
    ],
)
def test_impossible_cuts_are_refused(module, at, message):
    with pytest.raises(ValueError, match=message):
        split(module, at, input_shape=(4,))


class Normalized(nn.Module):
    """Running statistics between two layers."""

    num_classes: int = 3

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(4)(x))
        return nn.Dense(self.num_classes)(x)


@pytest.mark.parametrize(
    "make",
    [
        lambda: cuts(Normalized(), input_shape=(4,)),
        lambda: split(Normalized(), ["Dense_1"], input_shape=(4,)),
        lambda: split_classification(
            Normalized(), ["Dense_1"], num_classes=3, input_shape=(4,)
        ),
        lambda: vertical_classification(
            Normalized,
            models.linear(),
            blocks=[[0, 1], [2]],
            num_outputs=2,
            num_classes=3,
            num_features=3,
        ),
        lambda: vertical_classification(
            models.linear(),
            Normalized,
            blocks=[[0, 1], [2]],
            num_outputs=2,
            num_classes=3,
            num_features=3,
        ),
    ],
)
def test_running_statistics_are_refused(make):
    with pytest.raises(ValueError, match=r"without running statistics .* GroupNorm"):
        make()


def test_a_cut_that_nothing_passes_by_is_found_behind_a_shortcut():
    assert len(split(Around(), ["Dense_2"], input_shape=(4,))) == 2


@pytest.mark.thorough
def test_the_parts_of_a_task_have_its_loss_and_gradient():
    task = split_classification(
        models.mlp(6)(NUM_CLASSES),
        ["Dense_1"],
        num_classes=NUM_CLASSES,
        input_shape=(5,),
        scale=0.5,
    )
    params = task.task.init(jax.random.key(0))
    x, y = inputs((5,), "float32", 3), jnp.array([0, 2, 1])
    mask = jnp.array([True, False, True])

    def in_parts(params):
        for part in task.parts[:1]:
            hidden = part.apply(params_of(part.names, params), x)
        last = task.parts[1]
        logits = last.apply(params_of(last.names, params), hidden)
        return task.loss(logits, y, mask)

    ours = jax.value_and_grad(in_parts)(params)
    whole = jax.value_and_grad(task.task.loss)(
        params, Examples(x, y), mask, jax.random.key(0)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), ours, whole)
