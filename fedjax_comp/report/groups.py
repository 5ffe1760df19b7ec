"""Groups of runs that differ only in their seeds, named by how groups differ.

Runs with other seeds are repetitions. So are runs that lie elsewhere or are done faster
(`BOOKKEEPING`). A difference in any other flag, or in the experiment itself, makes
another group.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import NamedTuple

from fedjax_comp.report.found import FoundRun
from fedjax_comp.run_directory import SPEED_ONLY_FLAGS, Json

BOOKKEEPING = SPEED_ONLY_FLAGS | {
    *("audit_every", "audit_log", "checkpoint_every", "client_store"),
    *("eval_batch_size", "execution", "num_seeds", "quick", "run_id", "seed"),
}
"""Flags in which the runs of a group may differ: no figure follows from them."""

MOST_CHARACTERS = 48
"""Of a flag's value in a label."""


class Group(NamedTuple):
    """Runs of one configuration.

    Attributes:
      label: the flags in which this group differs from others, shortened.
      settings: the same in full.
      runs: one a seed.
      repeated: further runs that came to the same, bit for bit.
    """

    label: str
    settings: Mapping[str, object]
    runs: Sequence[FoundRun]
    repeated: Sequence[FoundRun] = ()


class Grouping(NamedTuple):
    """All groups.

    Attributes:
      groups: in the order in which the first run of each was found.
      shared: the flags in which they do not differ, `experiment` among them.
      named_by: the flags that labels are made of.
      following: further flags in which groups differ: whoever knows those of
        `named_by` knows these.
    """

    groups: Sequence[Group]
    shared: Json
    named_by: Sequence[str]
    following: Sequence[str]


def group_runs(runs: Sequence[FoundRun]) -> Grouping:
    """Puts runs of one configuration together.

    Two runs with the same flags, seed and results are counted once. Where the results
    differ, the code or something else has changed: the runs are told apart by their
    commit, or else by the directory below which they were found, or at last by their
    own.

    Args:
      runs: at least one.

    >>> from pathlib import Path
    >>> def run(name, **flags):
    ...     return FoundRun(Path(name), ".", "fed_avg", flags, flags["seed"], None,
    ...                     [{"round": flags["seed"]}], "")
    >>> found = group_runs([
    ...     run("a", uplink="identity()", model="linear()", seed=0),
    ...     run("b", uplink="identity()", model="linear()", seed=1),
    ...     run("c", uplink="sign_sgd()", model="linear()", seed=0)])
    >>> [(group.label, len(group.runs)) for group in found.groups], found.named_by
    ([('identity', 2), ('sign_sgd', 1)], ['uplink'])
    """
    buckets: dict[str, list[FoundRun]] = {}
    for run in runs:
        buckets.setdefault(_text(_settings(run)), []).append(run)
    found: list[tuple[Json, list[FoundRun], list[FoundRun]]] = []
    for bucket in buckets.values():
        kept, repeated = _without_repeated(bucket)
        for extra, part in _told_apart(kept):
            same = [run for run, of in repeated if of in part]
            found.append(({**_settings(part[0]), **extra}, part, same))
    differing = _differing([settings for settings, _, _ in found])
    own = [{n: s[n] for n in differing if n in s} for s, _, _ in found]
    named_by = _enough(differing, own)
    named = [{n: s[n] for n in named_by if n in s} for s in own]
    labels = _labels(named, [part[0].experiment for _, part, _ in found])
    groups = [
        Group(label, settings, part, same)
        for label, settings, (_, part, same) in zip(labels, own, found, strict=True)
    ]
    everywhere = [s for s, _, _ in found]
    shared = {
        n: x
        for n, x in everywhere[0].items()
        if n not in differing and all(n in s for s in everywhere)
    }
    following = [name for name in differing if name not in named_by]
    return Grouping(groups, shared, named_by, following)


def _settings(run: FoundRun) -> Json:
    own = {n: x for n, x in run.flags.items() if n not in BOOKKEEPING}
    return {"experiment": run.experiment, **own}


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _without_repeated(
    runs: Sequence[FoundRun],
) -> tuple[list[FoundRun], list[tuple[FoundRun, FoundRun]]]:
    """The runs, and those left out beside the one they are equal to."""
    kept: dict[str, FoundRun] = {}
    repeated = []
    for run in runs:
        # The time by the clock is never the same twice.
        rows = [{n: x for n, x in row.items() if n != "seconds"} for row in run.rows]
        first = kept.setdefault(_text([run.seed, run.state, rows]), run)
        if first is not run:
            repeated.append((run, first))
    return list(kept.values()), repeated


_WAYS: Mapping[str, Callable[[FoundRun], str]] = {
    "commit": lambda run: (run.commit or "not known")[:9],
    "below": lambda run: PurePath(run.below).name or run.below,
    "found below": lambda run: run.below,
    "directory": lambda run: str(run.path),
}


def _told_apart(runs: Sequence[FoundRun]) -> list[tuple[Json, list[FoundRun]]]:
    """Parts in which no seed is there twice, by the first of `_WAYS` that does it."""
    if _seeds_differ(runs):
        return [({}, list(runs))]
    for name, way in _WAYS.items():
        parts: dict[str, list[FoundRun]] = {}
        for run in runs:
            parts.setdefault(way(run), []).append(run)
        if all(map(_seeds_differ, parts.values())):
            return [({name: value}, part) for value, part in parts.items()]
    raise AssertionError("two runs in one directory")


def _seeds_differ(runs: Sequence[FoundRun]) -> bool:
    return len({run.seed for run in runs}) == len(runs)


def _differing(each: Sequence[Json]) -> list[str]:
    """Names of settings in which groups differ.

    What only some experiments have, and is the same in all of their runs, follows from
    the experiment.
    """
    names = dict.fromkeys(name for settings in each for name in settings)
    found = []
    for name in names:
        with_it = [settings for settings in each if name in settings]
        values = {_text(settings[name]) for settings in with_it}
        of = {settings["experiment"] for settings in with_it}
        others = {s["experiment"] for s in each if name not in s}
        if len(values) > 1 or (len(with_it) < len(each) and of & others):
            found.append(name)
    return found


def _enough(names: Sequence[str], each: Sequence[Json]) -> list[str]:
    """Names of settings by which all are told apart, without those that follow.

    Those with the fewest values are left out first, numbers before expressions.
    """

    def weight(name: str) -> tuple[int, bool, int]:
        values = [settings.get(name) for settings in each]
        text = any(isinstance(value, str) for value in values)
        return len(set(map(_text, values))), text, -names.index(name)

    kept = list(names)
    for name in sorted(names, key=weight):
        fewer = [one for one in kept if one != name]
        known = {_text([s.get(one, _ABSENT) for one in fewer]) for s in each}
        if name != "experiment" and len(known) == len(each):
            kept = fewer
    return kept


_ABSENT = "(absent)"


def _labels(each: Sequence[Json], otherwise: Sequence[str]) -> list[str]:
    """One label a group, no two alike, as short as that allows."""
    alone = len({name for settings in each for name in settings}) == 1
    for most in (MOST_CHARACTERS, 2 * MOST_CHARACTERS, 10**6):
        for with_none in (False, True):
            labels = []
            for settings, experiment in zip(each, otherwise, strict=True):
                known = {n: x for n, x in settings.items() if x is not None}
                if with_none or not known:
                    known = dict(settings)
                parts = [
                    shortened(x, most=most)
                    if alone or name == "experiment"
                    else f"{name}={shortened(x, most=most)}"
                    for name, x in known.items()
                ]
                labels.append(", ".join(parts) or experiment)
            if len(set(labels)) == len(labels):
                return labels
    return [f"{label} ({i})" for i, label in enumerate(labels, start=1)]


def shortened(value: object, *, most: int = MOST_CHARACTERS) -> str:
    """A flag's value for a label: calls without arguments lose their brackets, and of
    what is longer than `most` characters the middle is left out.

    >>> shortened("chain(top_k(0.01), entropy_coded())")
    'chain(top_k(0.01), entropy_coded)'
    >>> shortened("abcdefghij", most=7), shortened(None), shortened(True)
    ('abc…hij', 'none', 'yes')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value == "":
        return "none"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = re.sub(r"(?<=\w)\(\)", "", " ".join(text.split()))
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[: most - 1 - half]}…{text[-half:]}"
