"""The parser accepts what a notebook would write and nothing else."""

import pytest

from fedjax_comp import compress
from fedjax_comp.base import Compressor
from fedjax_comp.expression import ExpressionError, parse

COMPRESSORS = {
    name: getattr(compress, name)
    for name in compress.__all__
    if name not in ("ArrayCode", "leafwise")
}


def record(*args, **kwargs):
    return args, kwargs


def one_line(text: str, names=COMPRESSORS) -> str:
    with pytest.raises(ExpressionError) as caught:
        parse(text, names, flag="uplink")
    message = str(caught.value)
    assert message.startswith("--uplink: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "text",
    [
        "top_k(0.01)",
        "  identity( )  ",
        (
            "error_feedback(chain(top_k(0.01), stochastic_quantize(levels=16), "
            "entropy_coded()))"
        ),
        (
            "partition({'matrix': chain(low_rank(4), to_dtype('bfloat16')), "
            "'rest': identity()}, by_rank)"
        ),
        "chain(\n    rotate(),\n    qsgd(3),\n)",
    ],
)
def test_reads_pipelines(text: str):
    assert isinstance(parse(text, COMPRESSORS, flag="uplink"), Compressor)


def test_reads_literals():
    text = "f(1, -2.5, 'a', True, None, (1, [2], {'k': -3}), by=g, x=1e-3)"
    names = {"f": record, "g": "a value"}
    args, kwargs = parse(text, names, flag="model")
    assert args == (1, -2.5, "a", True, None, (1, [2], {"k": -3}))
    assert kwargs == {"by": "a value", "x": 1e-3}


def test_an_unknown_name_is_placed_and_corrected():
    assert one_line("error_feedback(topk(0.1))") == (
        "--uplink: unknown name 'topk' at column 16; did you mean 'top_k'?"
    )
    assert "did you mean 'qsgd'?" in one_line("QSGD(3)".lower().replace("d", ""))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("sign()", "scaled_sign"),
        ("one_sign()", "sign_sgd"),
        ("blocks(256, qsgd(3))", "blockwise"),
    ],
)
def test_a_name_of_an_earlier_version_is_told_the_present_one(old, new):
    assert one_line(old).endswith(f"at column 1; did you mean {new!r}?")


def test_columns_count_characters_and_not_bytes():
    names = {"f": record}
    assert "unknown name 'g' at column 10;" in one_line("f('äöü', g)", names)


def test_a_factory_without_its_call_is_told_how():
    assert one_line("top_k") == (
        "--uplink: 'top_k' is a name at column 1; write it as a call: top_k(...)"
    )
    assert "write it as a call: top_k(...)" in one_line("chain(top_k, qsgd(3))")


def test_wrong_arguments_are_one_line():
    assert one_line("qsgd(level=3)") == (
        "--uplink: qsgd() has no argument 'level' at column 6; did you mean 'levels'?"
    )
    assert "missing a required argument: 'levels'" in one_line("chain(qsgd())")
    assert "too many positional arguments" in one_line("qsgd(1, 2)")
    assert one_line("chain(qsgd(3), top_k(1.5))") == (
        "--uplink: top_k(...) at column 16: Expected fraction=1.5 in (0, 1]."
    )
    assert "levels='a'" in one_line("qsgd('a')")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "3",
        "'top_k(0.1)'",
        "[top_k(0.1)]",
        "top_k(0.1",
        "top_k(0.1))",
        "top_k(0.1); qsgd(3)",
        "top_k(0.1) + qsgd(3)",
        "top_k(2 ** 3)",
        "top_k(--1)",
        "top_k(1e999)",
        "top_k(1j)",
        "top_k(b'x')",
        "top_k(...)",
        "top_k(f'{1}')",
        "top_k(*[0.1])",
        "top_k(**{'k': 1})",
        "top_k(k=1, k=2)",
        "top_k((lambda: 1)())",
        "top_k([x for x in (1, 2)])",
        "top_k(0.1 if True else 1)",
        "(x := top_k(0.1))",
        "top_k.__class__()",
        "compress.top_k(0.1)",
        "top_k(0.1).init",
        "top_k(0.1)(3)",
        "__import__('os')",
        "open('/etc/passwd')",
        "partition({identity(): 1}, by_rank)",
        "partition({**{}}, by_rank)",
        "partition({[]: 1}, by_rank)",
        "top_k(\x00)",
        "top_k('\ud800')",
        "(" * 5000,
        "f(" * 200 + ")" * 200,
        "-" * 1500 + "1",
        "top_k(" + "1" * 3000 + ")",
        "é" * 100,
    ],
)
def test_everything_else_is_refused_in_one_line(text: str):
    one_line(text)


def test_depth_is_limited_without_brackets_too():
    assert "deep" in one_line("identity(" * 40 + ")" * 40)


def test_a_dotted_name_is_led_back_to_the_plain_one():
    assert "did you mean 'top_k'?" in one_line("chain(compress.top_k(0.1))")
