"""Several FedAvg runs of one command that differ in their compressors alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from absl import flags

from experiments.harness.expressions import build
from experiments.harness.flags import as_dict
from experiments.harness.main import UsageError


class Pipeline(NamedTuple):
    """A named pair of compressors, as expressions."""

    name: str
    uplink: str
    downlink: str


def parse_pipeline(text: str) -> Pipeline:
    """Reads `NAME: UPLINK | DOWNLINK` and checks both expressions.

    Args:
      text: one value of `--pipeline`.

    Raises:
      ValueError: when it is not of that form or an expression is not valid.

    >>> parse_pipeline("bf16: to_dtype('bfloat16') | identity()").uplink
    "to_dtype('bfloat16')"
    """
    name, colon, links = text.partition(":")
    uplink, bar, downlink = links.partition("|")
    name = name.strip()
    if not (colon and bar) or not name.replace("-", "").replace("_", "").isalnum():
        raise UsageError(
            f"--pipeline={text!r} is not of the form 'NAME: UPLINK | DOWNLINK', e.g. "
            "'dense: identity() | identity()'."
        )
    pipeline = Pipeline(name, uplink.strip(), downlink.strip())
    build("uplink", pipeline.uplink)
    build("downlink", pipeline.downlink)
    return pipeline


def parse_pipelines(texts: Sequence[str]) -> list[Pipeline]:
    """All values of `--pipeline`, each with a name of its own.

    Raises:
      ValueError: as `parse_pipeline`, and when two have the same name.
    """
    pipelines = [parse_pipeline(text) for text in texts]
    names = [pipeline.name for pipeline in pipelines]
    if len(set(names)) != len(names):
        raise UsageError(f"--pipeline: names must differ, got {', '.join(names)}.")
    return pipelines


def flags_of(
    pipeline: Pipeline, values: flags.FlagValues, own: flags.FlagValues
) -> flags.FlagValues:
    """The flags of one pipeline's own run, in its directory below `--workdir`.

    Args:
      pipeline: which one.
      values: the command's flags.
      own: the flags of the run, not yet parsed; they are given the command's values.

    Returns:
      `own`.
    """
    own([""])
    settings = {
        **as_dict(values),
        **pipeline._asdict(),
        "workdir": str(Path(values.workdir) / pipeline.name),
    }
    for name, value in settings.items():
        if name in own:
            own[name].value = value
    return own
