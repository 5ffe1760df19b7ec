"""The names that flags may use in their Python expressions."""

import functools
import importlib
import inspect
import math
import pkgutil
import re
import textwrap
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

import optax
from absl import flags

from fedjax_comp import checks, compress, data, execution, models, network
from fedjax_comp.base import Compressor
from fedjax_comp.compress.low_rank.coded import low_rank_coder
from fedjax_comp.compress.quantize.separable import coder
from fedjax_comp.experiment import algorithms, controllers
from fedjax_comp.experiment.errors import UsageError
from fedjax_comp.expression import parse
from fedjax_comp.wire import codes

_SCHEDULES = (
    "cosine_decay_schedule",
    "exponential_decay",
    "linear_schedule",
    "piecewise_constant_schedule",
    "warmup_cosine_decay_schedule",
)


def _uphill(factory: Callable[..., Any]) -> Callable[..., Any]:
    """The factory, which refuses a learning rate below 0: optax takes it silently."""

    @functools.wraps(factory)
    def checked(*args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(factory).bind(*args, **kwargs).arguments
        rate = given.get("learning_rate", 0.0)
        if not callable(rate):
            checks.number("learning_rate", rate, minimum=0, below=math.inf)
        return factory(*args, **kwargs)

    return checked


OPTIMIZERS = {
    name: _uphill(getattr(optax, name))
    for name in (
        "adabelief",
        "adadelta",
        "adagrad",
        "adam",
        "adamw",
        "add_decayed_weights",
        "chain",
        "clip",
        "clip_by_global_norm",
        "lamb",
        "lion",
        "rmsprop",
        "sgd",
        "sign_sgd",
        "yogi",
        *_SCHEDULES,
    )
}
"""Optax's own names, and the schedules that stand in place of a learning rate."""


def _factories() -> dict[str, object]:
    """Every public function below `compress/` that returns a `Compressor`.

    But for `leafwise` and the coders: what they take is made of functions, which no
    flag can say.
    """
    found: dict[str, object] = {}
    for info in pkgutil.walk_packages(compress.__path__, f"{compress.__name__}."):
        module = importlib.import_module(info.name)
        for name, made in vars(module).items():
            if (
                inspect.isfunction(made)
                and not name.startswith("_")
                and made not in (compress.leafwise, coder, low_rank_coder)
                and made.__module__ == module.__name__
                and get_type_hints(made).get("return") is Compressor
            ):
                found[name] = made
    return found


COMPRESSORS = {
    "identity": compress.identity,  # what a message of a mistake proposes is the first
    "by_rank": compress.by_rank,
    **_factories(),
    **{name: getattr(codes, name) for name in codes.__all__},
}
"""The compressors, found where they are written, and what their arguments name."""

_RATE = re.compile(r"\brate\b(?!\s*=)")

NAMES: Mapping[str, dict[str, Any]] = {
    "algorithm": algorithms.NAMES,
    "augmentation": {"crop_and_flip": models.crop_and_flip},
    "controller": dict(controllers.NAMES),
    "client_optimizer": OPTIMIZERS,
    "client_schedule": {name: getattr(optax, name) for name in _SCHEDULES},
    "server_optimizer": OPTIMIZERS,
    "uplink": COMPRESSORS,
    "downlink": COMPRESSORS,
    "compressor": COMPRESSORS,
    "execution": {
        n: getattr(execution, n)
        for n in ("auto", "chunked", "scanned", "sharded", "vmapped")
    },
    "partition": {
        n: getattr(data, n)
        for n in ("clusters", "dirichlet", "iid", "natural", "shards")
    },
    "network": {
        n: getattr(network, n)
        for n in (
            "by_label",
            "constant",
            "intermittent",
            "lognormal",
            "markov",
            "recorded",
        )
    },
    "devices": {n: getattr(network, n) for n in ("mixed", "phones", "same")},
    "model": {n: getattr(models, n) for n in models.FACTORIES},
}


KINDS: Mapping[str, type] = {
    "algorithm": algorithms.Chosen,
    "controller": controllers.Rule,
    "client_optimizer": optax.GradientTransformation,
    "server_optimizer": optax.GradientTransformation,
    "uplink": Compressor,
    "downlink": Compressor,
    "compressor": Compressor,
}
EXAMPLES = {
    "algorithm": "fed_avg()",
    "controller": "hardware_aware()",
    "client_optimizer": "sgd(0.1)",
    "server_optimizer": "sgd(1.0)",
    "uplink": "top_k(0.01)",
    "downlink": "identity()",
    "compressor": "qsgd(3)",
}


def build(flag: str, text: str) -> Any:
    """The object that a flag's expression describes.

    Args:
      flag: the flag's name, a key of `NAMES`.
      text: the expression, always a call, such as `top_k(0.01)`.

    Returns:
      What the call returns.

    Raises:
      fedjax_comp.expression.ExpressionError: one line with the position and the nearest
        valid name.
      UsageError: when the expression is valid but makes something else.
    """
    made = parse(text, NAMES[flag], flag=flag)
    wanted = KINDS.get(flag)
    if wanted is not None and not isinstance(made, wanted):
        what = {"algorithm": "Algorithm", "controller": "Controller"}.get(
            flag, wanted.__name__
        )
        raise UsageError(
            f"--{flag}={text} makes no {what}; e.g. {EXAMPLES[flag]} does."
        )
    return made


def check_expressions(values: flags.FlagValues) -> None:
    """Builds what every flag of one expression describes, so that mistakes come first.

    Where a rate is to be chosen, it is built once there is one.

    Raises:
      ValueError: as `build`, for the first mistake.
    """
    for name in NAMES:
        text = values[name].value if name in values else None
        later = "rate_grid" in values and says_rate(text)
        if isinstance(text, str) and text and not later:
            build(name, text)


def names_help(values: flags.FlagValues) -> str:
    """The names that the expressions of these flags may use, kind by kind.

    Your own names (`fedjax_comp.experiment.own_names`) are not among them.

    Args:
      values: flags, parsed or not.

    Returns:
      Lines for a terminal; empty where no flag takes an expression.
    """
    kinds: dict[int, tuple[list[str], list[str]]] = {}
    for flag, names in NAMES.items():
        if flag in values:
            kinds.setdefault(id(names), ([], sorted(names)))[0].append(f"--{flag}")
    if "pipeline" in values:
        kinds.setdefault(id(COMPRESSORS), ([], sorted(COMPRESSORS)))[0].append(
            "--pipeline"
        )
    if not kinds:
        return ""
    paragraphs = [
        textwrap.fill(
            f"{', '.join(told)}: {', '.join(names)}",
            width=80,
            initial_indent="  ",
            subsequent_indent="    ",
            break_on_hyphens=False,
        )
        for told, names in kinds.values()
    ]
    return "\n".join(["\nNames in the expressions of flags:", *paragraphs])


def says_rate(value: object) -> bool:
    """Whether a flag's expressions leave a rate to be chosen.

    >>> says_rate("sgd(rate)"), says_rate("importance(rate=0.5)")
    (True, False)
    """
    texts = value if isinstance(value, list) else [value]
    return any(isinstance(text, str) and _RATE.search(text) for text in texts)


def with_rate(value: object, rate: float) -> object:
    """A flag's value with the rate in its place.

    >>> with_rate("chain(add_decayed_weights(0.1), sgd(rate))", 0.03)
    'chain(add_decayed_weights(0.1), sgd(0.03))'
    >>> with_rate(["a: importance(rate=0.5) | adam(rate)"], 0.3)
    ['a: importance(rate=0.5) | adam(0.3)']
    """
    if isinstance(value, list):
        return [with_rate(text, rate) for text in value]
    return _RATE.sub(f"{rate:g}", value) if isinstance(value, str) else value
