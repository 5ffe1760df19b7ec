"""Several runs of one command, each in its own directory below the command's.

Most differ only in their compressors: these are called pipelines.
"""

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from absl import flags

from fedjax_comp.experiment.expressions import build
from fedjax_comp.experiment.flags import as_dict
from fedjax_comp.experiment.main import SHOW, UsageError
from fedjax_comp.expression import ExpressionError

Result = TypeVar("Result")


class Variant(Protocol):
    """One of a command's runs: a `NamedTuple` of the flags in which it differs."""

    @property
    def name(self) -> str:
        """Of the run and its directory."""
        ...

    def _asdict(self) -> dict[str, object]: ...


class Pipeline(NamedTuple):
    """A named pair of compressors and the algorithm around them, as expressions."""

    name: str
    uplink: str
    downlink: str
    algorithm: str


def parse_pipeline(text: str, algorithm: str = "fed_avg()") -> Pipeline:
    """Reads `NAME: UPLINK | DOWNLINK` or `NAME: UPLINK | DOWNLINK | ALGORITHM`.

    Args:
      text: one value of `--pipeline`; its expressions are checked.
      algorithm: of those that name none.

    Raises:
      ValueError: when it is not of that form or an expression is not valid.

    >>> parse_pipeline("bf16: to_dtype('bfloat16') | identity()").uplink
    "to_dtype('bfloat16')"
    """
    form = (
        "'NAME: UPLINK | DOWNLINK', with '| ALGORITHM' behind it or without, e.g. "
        "'dense: identity() | identity()'"
    )
    ((name, parts),) = parse_named("pipeline", [text], form, counts=(2, 3))
    pipeline = Pipeline(name, *[*parts, algorithm][:3])
    for flag in ("uplink", "downlink", "algorithm"):
        try:
            build(flag, getattr(pipeline, flag))
        except (ExpressionError, UsageError) as error:
            told = str(error).removeprefix(f"--{flag}: ")
            raise UsageError(f"--pipeline={name!r}, its {flag}: {told}") from None
    return pipeline


def split_name(text: str) -> tuple[str, str]:
    """What stands before and behind the colon of `NAME: ...`.

    The name is empty when there is none that can be a directory's.

    >>> split_name("ef-sign: scaled_sign()"), split_name("../up: scaled_sign()")
    (('ef-sign', 'scaled_sign()'), ('', 'scaled_sign()'))
    """
    name, _, rest = text.partition(":")
    name = name.strip()
    plain = name.replace("-", "").replace("_", "").isalnum()
    return name if plain else "", rest.strip()


def check_names(flag: str, names: Sequence[str]) -> None:
    """Refuses a repeated flag of which two values have the same name."""
    if len(set(names)) != len(names):
        raise UsageError(f"--{flag}: names must differ, got {', '.join(names)}.")


def parse_named(
    flag: str, texts: Iterable[str], form: str, *, counts: Collection[int] = (1,)
) -> list[tuple[str, list[str]]]:
    """Reads a repeated flag of which every value is `NAME: PART | PART ...`.

    Args:
      flag: its name, for messages.
      texts: its values.
      form: what a value looks like, for messages.
      counts: how many parts a value may have.

    Returns:
      `(name, parts)` for each value, in order; the parts are not looked into.

    Raises:
      ValueError: when one is not of that form, or two have the same name.

    >>> parse_named("method", ["a: f(1) | g(2)"], "'NAME: F | G'", counts=(2,))
    [('a', ['f(1)', 'g(2)'])]
    """
    found = []
    for text in texts:
        name, rest = split_name(text)
        parts = [part.strip() for part in rest.split("|")]
        if not name or len(parts) not in counts or not all(parts):
            raise UsageError(f"--{flag}={text!r} is not of the form {form}.")
        found.append((name, parts))
    check_names(flag, [name for name, _ in found])
    return found


def parse_pipelines(
    texts: Iterable[str], algorithm: str = "fed_avg()"
) -> list[Pipeline]:
    """All values of `--pipeline`, each with a name of its own.

    Raises:
      ValueError: as `parse_pipeline`, and when two have the same name.
    """
    pipelines = [parse_pipeline(text, algorithm) for text in texts]
    check_names("pipeline", [pipeline.name for pipeline in pipelines])
    return pipelines


def flags_of(
    variant: Variant, values: flags.FlagValues, own: flags.FlagValues
) -> flags.FlagValues:
    """The flags of one variant's own run, in its directory below `--workdir`.

    Args:
      variant: which one.
      values: the command's flags.
      own: the flags of the run, not yet parsed; they are given the command's values.

    Returns:
      `own`.
    """
    own([""])
    settings = {
        **as_dict(values),
        **variant._asdict(),
        "workdir": str(Path(values.workdir or "") / variant.name),
    }
    if settings.get("run_id") is not None:
        # Two variants are two runs: under one name they would be two histories.
        settings["run_id"] = f"{settings['run_id']}.{variant.name}"
    for name, value in settings.items():
        if name in own:
            own[name].value = value
    return own


def attempt(name: str, run: Callable[[], Result]) -> tuple[Result | None, str]:
    """Runs one of several, so that its failure does not lose the others.

    Args:
      name: what it is, for the message.
      run: what to do.

    Returns:
      Its result and "", or None and the reason in one line. With `FEDJAX_COMP_DEBUG`
      set the error is raised instead.
    """
    try:
        return run(), ""
    except Exception as error:
        if os.environ.get("FEDJAX_COMP_DEBUG"):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        own = type(error).__module__.startswith("fedjax_comp.")
        print(f"{name} failed: {reason}{'' if own else SHOW}")
        return None, reason
