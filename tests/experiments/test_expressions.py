"""What a flag may name: every factory of compressors, and nothing that makes none."""

import importlib
import inspect
import pkgutil
import re
from collections import Counter

from experiments.fed_avg import compare
from fedjax_comp import checks, compress
from fedjax_comp.base import Compressor
from fedjax_comp.experiment.expressions import NAMES
from fedjax_comp.wire.fields import Code

OFFERED = NAMES["uplink"]


def returned(name):
    return inspect.signature(OFFERED[name]).return_annotation


def test_what_an_uplink_may_name_makes_a_compressor_a_code_or_a_label():
    kinds = {name: returned(name) for name in OFFERED}
    assert set(kinds.values()) == {Compressor, Code, str}
    assert [name for name, kind in kinds.items() if kind is str] == ["by_rank"]


def test_a_validator_a_converter_and_a_private_helper_are_not_offered():
    assert inspect.signature(checks.compressor).return_annotation is Compressor
    for name in ("compressor", "ArrayCode", "leafwise", "low_rank_start"):
        assert name not in OFFERED
    assert not [name for name in OFFERED if name.startswith("_")]


def test_every_factory_is_found_once():
    found = Counter()
    for info in pkgutil.walk_packages(compress.__path__, "fedjax_comp.compress."):
        module = importlib.import_module(info.name)
        found.update(
            name
            for name, made in vars(module).items()
            if OFFERED.get(name) is made and made.__module__ == module.__name__
        )
    factories = {name for name in OFFERED if returned(name) is Compressor}
    assert factories <= set(found)
    # Of two factories with one name a flag could reach only one.
    assert set(found.values()) == {1}


def test_help_lists_the_names_of_every_flag_it_has(capsys):
    compare.COMPARISON.main(["", "--help"])
    text = capsys.readouterr().out.partition("Names in the expressions")[2]
    for kind in ("model", "uplink", "partition", "algorithm", "client_optimizer"):
        assert set(NAMES[kind]) <= set(re.findall(r"\w+", text))
    assert "--uplink, --downlink, --pipeline: " in text
    assert "--compressor" not in text
    assert max(map(len, text.splitlines())) <= 80
