"""The shapes of ResNet-18 for 32x32 images: its bits are known without training it."""

import jax
import jax.numpy as jnp

from fedjax_comp.base import PyTree

WIDTHS = (64, 128, 256, 512)


def resnet18_shapes(num_classes: int) -> PyTree:
    """Parameters of ResNet-18 with a 3x3 first convolution, without arrays.

    He et al. 2016, "Deep residual learning for image recognition", table 1, with the
    usual change for small images (a 3x3 stem at stride 1, no max-pooling) and 1x1
    convolutions in the three shortcuts that change width. A normalisation has a scale
    and an offset for each channel.

    Args:
      num_classes: labels.

    Returns:
      A tree of float32 `jax.ShapeDtypeStruct`.

    >>> leaves = jax.tree.leaves(resnet18_shapes(10))
    >>> sum(leaf.size for leaf in leaves)
    11173962
    """

    def array(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    def convolution(size: int, inputs: int, outputs: int) -> PyTree:
        return {
            "kernel": array(size, size, inputs, outputs),
            "scale": array(outputs),
            "offset": array(outputs),
        }

    layers = {"stem": convolution(3, 3, WIDTHS[0])}
    inputs = WIDTHS[0]
    for stage, width in enumerate(WIDTHS):
        for block in range(2):
            name = f"stage_{stage}_block_{block}"
            layers[f"{name}_first"] = convolution(3, inputs, width)
            layers[f"{name}_second"] = convolution(3, width, width)
            if inputs != width:
                layers[f"{name}_shortcut"] = convolution(1, inputs, width)
            inputs = width
    layers["dense"] = {"kernel": array(inputs, num_classes), "bias": array(num_classes)}
    return layers
