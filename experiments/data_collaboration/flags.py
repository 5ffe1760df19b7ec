"""Flags of data collaboration and its rivals, and the variants that they name."""

from collections.abc import Sequence
from typing import NamedTuple, cast

from absl import flags

from fedjax_comp.base import Compressor
from fedjax_comp.experiment.expressions import build
from fedjax_comp.experiment.flags import run_flags
from fedjax_comp.experiment.main import UsageError
from fedjax_comp.experiment.pipelines import parse_named
from fedjax_comp.expression import parse
from fedjax_comp.one_shot import private_maps
from fedjax_comp.one_shot.row_noise import RowNoise, gaussian_rows

VARIANTS = (
    "collaboration: uniform(500) | pca(50) | identity()",
    "permuted: uniform(500) | permuted(pca(50)) | identity()",
    "public: public_sample(500) | pca(50) | identity()",
    "low-rank: low_rank_sample(500, rank=100) | pca(50) | identity()",
    "svd: uniform(500) | truncated_svd(50) | identity()",
    "random: uniform(500) | random_orthogonal(50) | identity()",
    "8-bit: uniform(500) | pca(50) | stochastic_quantize(levels=256)",
    "4-bit: uniform(500) | pca(50) | stochastic_quantize(levels=16)",
    "2-bit: uniform(500) | pca(50) | stochastic_quantize(levels=4)",
    "anchors-1000: uniform(1000) | pca(50) | identity()",
    "anchors-100: uniform(100) | pca(50) | identity()",
    "anchors-50: uniform(50) | pca(50) | identity()",
    "noise-50: uniform(500) | pca(50) | identity() | gaussian_rows(6.0, 0.3)",
    "noise-8: uniform(500) | pca(50) | identity() | gaussian_rows(6.0, 1.2)",
    (
        "private-50: uniform(500) | random_orthogonal(50, seed=0) | identity() | "
        "gaussian_rows(2.5, 0.3)"
    ),
)
"""The first is held against the published figures. `noise-50` and `noise-8` are named
after the epsilon of what is noised, their representations. The map of `private-50` is
no secret: there it is that of the whole upload but the labels."""

ANCHORS = {
    name: getattr(private_maps, name)
    for name in ("low_rank_sample", "public_sample", "uniform")
}
MAPS = {
    name: getattr(private_maps, name)
    for name in ("pca", "permuted", "random_orthogonal", "truncated_svd")
}
NOISES = {"gaussian_rows": gaussian_rows}
RIVALS = ("individual", "centralised", "fed_avg")


def define() -> flags.FlagValues:
    """All flags of `python -m experiments.data_collaboration`, not yet parsed."""
    values = run_flags()
    text, whole = flags.DEFINE_string, flags.DEFINE_integer
    text("dataset", "mnist", "Data set of images.", flag_values=values)
    text("model", "mlp(512, 128)", "The model, as a Python call.", flag_values=values)
    text("client_optimizer", "adam(0.001)", "Optax optimizer.", flag_values=values)
    flags.DEFINE_multi_integer(
        "num_clients",
        [1, 2, 3, 5, 7, 10],
        "Users, with --base_examples each; may be repeated.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_multi_integer(
        "num_examples",
        [50, 100, 200, 500, 1000],
        "Examples of each of --base_clients; may be repeated.",
        lower_bound=1,
        flag_values=values,
    )
    for name, default, meaning in (
        ("base_examples", 100, "Examples of a user while users are varied."),
        ("base_clients", 5, "Users while their examples are varied."),
        ("dimension", 50, "Of the common space, l."),
        ("num_public", 1000, "Public examples, for the anchors that need some."),
        ("num_test", 10_000, "Test examples, at most."),
        ("epochs", 24, "Passes over the data, or rounds of federated averaging."),
        ("batch_size", 32, "Examples in a batch."),
        ("num_trials", 3, "Repetitions with other examples."),
    ):
        whole(name, default, meaning, flag_values=values, lower_bound=1)
    flags.DEFINE_multi_string(
        "variant",
        list(VARIANTS),
        "NAME: ANCHOR | PRIVATE MAP | COMPRESSOR [| NOISE]; may be repeated.",
        flag_values=values,
    )
    return values


QUICK = {
    "dataset": "digits",
    "model": "mlp(64)",
    "num_clients": [1, 5],
    "num_examples": [50, 200],
    "base_examples": 50,
    "dimension": 20,
    "num_public": 200,
    "num_trials": 3,
    "variant": [
        "collaboration: uniform(100) | pca(20) | identity()",
        "8-bit: uniform(100) | pca(20) | stochastic_quantize(levels=256)",
        "anchors-20: uniform(20) | pca(20) | identity()",
        "noise: uniform(100) | pca(20) | identity() | gaussian_rows(3.0, 0.3)",
    ],
}
"""What `--quick` sets unless it is given by hand."""


class Variant(NamedTuple):
    """One way of collaborating.

    Attributes:
      name: in the table.
      anchor: what all parties know.
      fit: what a party keeps to itself.
      compressor: of what it sends.
      noise: on its representations, before they are compressed; None for none.
    """

    name: str
    anchor: private_maps.Anchor
    fit: private_maps.FitMap
    compressor: Compressor
    noise: RowNoise | None


def parse_variants(texts: Sequence[str]) -> list[Variant]:
    """All values of `--variant`.

    Args:
      texts: each `NAME: ANCHOR | PRIVATE MAP | COMPRESSOR [| NOISE]`.

    Raises:
      ValueError: when one is not of that form, an expression is not valid, two have one
        name, or one that of a rival.

    >>> parse_variants(["a: uniform(9) | pca(3) | identity()"])[0].name
    'a'
    """
    form = (
        "'NAME: ANCHOR | PRIVATE MAP | COMPRESSOR [| NOISE]', e.g. "
        "'plain: uniform(500) | pca(50) | identity()'"
    )
    variants = []
    for name, (anchor, fit, compressor, *noise) in parse_named(
        "variant", texts, form, counts=(3, 4)
    ):
        if name in RIVALS:
            raise UsageError(f"--variant: {name} is measured anyway; choose a name.")
        variants.append(
            Variant(
                name,
                cast(private_maps.Anchor, parse(anchor, ANCHORS, flag="variant")),
                cast(private_maps.FitMap, parse(fit, MAPS, flag="variant")),
                build("compressor", compressor),
                _noise_of(noise),
            )
        )
    return variants


def _noise_of(texts: Sequence[str]) -> RowNoise | None:
    """What stands behind the compressor, if anything."""
    made = [cast(RowNoise, parse(one, NOISES, flag="variant")) for one in texts]
    return made[0] if made else None
