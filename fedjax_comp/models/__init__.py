"""Models and the tasks made of them.

A factory such as `cnn()` takes hyperparameters and returns a `ModelFn`, which waits for
the number of classes: the data say how many there are, and of what shape the inputs
are. So a run is `classification(cnn()(10), input_shape=(28, 28, 1), scale=1 / 255)`;
`regression` takes any module that predicts numbers.

Your own model may be a `flax.linen` module, `of_nnx(make)` for a `flax.nnx` one, or a
`Network` of two functions. `cnn(dropout=0.5)` draws random numbers in training;
`augmented` changes the examples that are trained on; `frozen` and `low_rank_adapted`
take out of a task's parameters what is neither trained nor sent. Running statistics of
a BatchNorm are kept beside the parameters, sent with them and averaged.
"""

from fedjax_comp.models.augment import augmented, crop_and_flip
from fedjax_comp.models.cnn import cnn
from fedjax_comp.models.convolution import conv_direct, conv_lax, conv_patches
from fedjax_comp.models.factorized import Compact, Factorized, factorize
from fedjax_comp.models.fedpara import fed_para
from fedjax_comp.models.frozen import frozen, low_rank_adapted
from fedjax_comp.models.linear import linear
from fedjax_comp.models.lstm import char_lstm
from fedjax_comp.models.mlp import mlp
from fedjax_comp.models.network import Network, of_nnx
from fedjax_comp.models.regression import regression
from fedjax_comp.models.resnet import resnet, resnet18
from fedjax_comp.models.split import split_classification
from fedjax_comp.models.task import ModelFn, classification
from fedjax_comp.models.transformer import char_transformer
from fedjax_comp.models.vertical import vertical_classification
from fedjax_comp.models.vgg import vgg

FACTORIES = (
    "char_lstm",
    "char_transformer",
    "cnn",
    "fed_para",
    "linear",
    "mlp",
    "resnet",
    "resnet18",
    "vgg",
)
"""Names of the factories of a `ModelFn`: what a `--model` expression may call."""

__all__ = [
    "FACTORIES",
    "Compact",
    "Factorized",
    "ModelFn",
    "Network",
    "augmented",
    "char_lstm",
    "char_transformer",
    "classification",
    "cnn",
    "conv_direct",
    "conv_lax",
    "conv_patches",
    "crop_and_flip",
    "factorize",
    "fed_para",
    "frozen",
    "linear",
    "low_rank_adapted",
    "mlp",
    "of_nnx",
    "regression",
    "resnet",
    "resnet18",
    "split_classification",
    "vertical_classification",
    "vgg",
]
