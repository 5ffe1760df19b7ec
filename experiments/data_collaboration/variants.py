"""Variants of data collaboration, read from flags."""

from collections.abc import Sequence
from typing import NamedTuple, cast

from fedjax_comp.base import Compressor
from fedjax_comp.experiment.expressions import build
from fedjax_comp.experiment.main import UsageError
from fedjax_comp.experiment.pipelines import check_names, split_name
from fedjax_comp.expression import parse
from fedjax_comp.one_shot import private_maps

ANCHORS = {
    name: getattr(private_maps, name)
    for name in ("low_rank_sample", "public_sample", "uniform")
}
MAPS = {
    name: getattr(private_maps, name)
    for name in ("pca", "permuted", "random_orthogonal", "truncated_svd")
}
RIVALS = ("individual", "centralised", "fed_avg")


class Variant(NamedTuple):
    """One way of collaborating: a name, an anchor, private maps, a compressor."""

    name: str
    anchor: private_maps.Anchor
    fit: private_maps.FitMap
    compressor: Compressor


def parse_variants(texts: Sequence[str]) -> list[Variant]:
    """All values of `--variant`.

    Args:
      texts: each `NAME: ANCHOR | PRIVATE MAP | COMPRESSOR`.

    Raises:
      ValueError: when one is not of that form, an expression is not valid, or two have
        one name.

    >>> parse_variants(["a: uniform(9) | pca(3) | identity()"])[0].name
    'a'
    """
    variants = []
    for text in texts:
        name, rest = split_name(text)
        parts = [part.strip() for part in rest.split("|")]
        if not name or name in RIVALS or len(parts) != 3:
            raise UsageError(
                f"--variant={text!r} is not of the form 'NAME: ANCHOR | PRIVATE MAP | "
                "COMPRESSOR', e.g. 'plain: uniform(500) | pca(50) | identity()'."
            )
        anchor = cast(private_maps.Anchor, parse(parts[0], ANCHORS, flag="variant"))
        fit = cast(private_maps.FitMap, parse(parts[1], MAPS, flag="variant"))
        variants.append(Variant(name, anchor, fit, build("compressor", parts[2])))
    check_names("variant", [variant.name for variant in variants])
    return variants
