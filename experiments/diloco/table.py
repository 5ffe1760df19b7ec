"""The pipelines that are compared: to add one, add a line."""

from typing import NamedTuple

from absl import flags

from fedjax_comp.experiment.errors import UsageError
from fedjax_comp.experiment.expressions import build
from fedjax_comp.experiment.pipelines import parse_named

FORM = (
    "'NAME: WORKERS x STEPS | UPLINK | DOWNLINK | ALGORITHM | OUTER', e.g. "
    "'h-10: 8 x 10 | identity() | identity() | diloco() | sgd(0.7)'"
)
GATHERED, INNER = "gathered", "inner"

NESTEROV = "sgd(1.0, momentum=0.5, nesterov=True)"
NO_MOMENTUM = "sgd(1.0)"
DENSE = "identity() | identity() | diloco()"


def both_ways(coder: str) -> str:
    """What is lost on the way up is sent later, and so it is on the way down."""
    return f"error_feedback({coder}) | {coder} | diloco(changes=True)"


def heard_by_all(coder: str) -> str:
    """Every worker hears what the others send, which is coarse but once."""
    return f"error_feedback({coder}) | gathered | diloco()"


FINE = both_ways("coded_low_rank(1.0)")
FOUR_BITS = "chain(stochastic_quantize(levels=16), entropy_coded())"
SIGNS = "sign_sgd(warmup_cosine_decay_schedule(0.0, 0.003, 30, 600, 0.00015))"


def streamed(fragments: int, delay: int, mixing: float) -> str:
    """Dense fragments in turn, which arrive late."""
    own = f"fragments={fragments}, delay={delay}, mixing={mixing}"
    return f"identity() | identity() | streaming_diloco({own})"


PIPELINES = (
    "data-parallel: 4 x 1 | identity() | identity() | fed_avg() | inner",
    f"h-10: 4 x 10 | {DENSE} | {NESTEROV}",
    f"h-5-low-rank: 4 x 5 | {both_ways('coded_low_rank(1.25)')} | {NESTEROV}",
    f"h-10-low-rank: 4 x 10 | {FINE} | {NESTEROV}",
    f"h-50-low-rank: 4 x 50 | {both_ways('coded_low_rank(1.5)')} | {NESTEROV}",
    f"h-10-sparse: 4 x 10 | sparse_loco(128) | gathered | diloco() | {NO_MOMENTUM}",
    f"h-10-streaming: 4 x 10 | {streamed(2, 1, 0.5)} | {NESTEROV}",
    f"demo: 4 x 1 | chain(demo(4), entropy_coded()) | gathered | fed_avg() | {SIGNS}",
    f"h-50: 4 x 50 | {DENSE} | {NESTEROV}",
    f"h-10-low-rank-2-workers: 2 x 10 | {FINE} | {NESTEROV}",
    f"h-10-8-workers: 8 x 10 | {DENSE} | {NESTEROV}",
    f"h-10-2-workers: 2 x 10 | {DENSE} | {NESTEROV}",
    f"h-10-1-worker: 1 x 10 | {DENSE} | {NESTEROV}",
    f"h-10-4-bit: 4 x 10 | {both_ways(FOUR_BITS)} | {NESTEROV}",
    f"h-10-separable: 4 x 10 | {both_ways('separable(2.0)')} | {NESTEROV}",
    f"h-20-gathered: 2 x 20 | {heard_by_all('coded_low_rank(1.75)')} | {NESTEROV}",
    f"h-50-gathered: 2 x 50 | {heard_by_all('coded_low_rank(1.25)')} | {NESTEROV}",
    f"h-10-paper: 4 x 10 | {DENSE} | sgd(0.7, momentum=0.9, nesterov=True)",
)
"""The first is what the others are held against."""

QUICK = tuple(
    text
    for text in PIPELINES
    if text.partition(":")[0] in ("data-parallel", "h-10", "h-10-sparse")
)


class Variant(NamedTuple):
    """A run: its name and the flags of `experiments.fed_avg` in which it differs.

    Attributes:
      gathered: whether all workers hear all others, and there is no server.
    """

    name: str
    num_clients: int
    cohort_size: int
    local_steps: int
    batch_size: int
    num_rounds: int
    eval_every: int
    audit_every: int
    uplink: str
    downlink: str
    algorithm: str
    client_optimizer: str
    server_optimizer: str
    gathered: bool


def parse_variants(values: flags.FlagValues) -> list[Variant]:
    """All values of `--pipeline`.

    Raises:
      UsageError: for one that is not of the form, or whose steps and batch do not come
        out even.
    """
    return [
        _variant(name, parts, values)
        for name, parts in parse_named("pipeline", values.pipeline, FORM, counts=(5,))
    ]


def _variant(name: str, parts: list[str], values: flags.FlagValues) -> Variant:
    size, uplink, downlink, algorithm, outer = parts
    numbers = [one.strip() for one in size.split("x")]
    if len(numbers) != 2 or not all(one.isdecimal() for one in numbers):
        raise UsageError(f"--pipeline={name}: {size} is no WORKERS x STEPS of {FORM}.")
    workers, steps = map(int, numbers)
    shares = {"total_batch": workers, "total_steps": steps}
    for flag, share in shares.items():
        whole: int = values[flag].value  # type: ignore[assignment]
        if share < 1 or whole % share:
            raise UsageError(
                f"--pipeline={name}: {size} does not divide --{flag}={whole}."
            )
    rounds = values.total_steps // steps
    gathers = downlink == GATHERED
    # One step of size 1 sends the gradient: the optimizer is then the server's.
    sends_gradients = build("algorithm", algorithm).name == "fed_avg"
    variant = Variant(
        name=name,
        num_clients=workers,
        cohort_size=workers,
        local_steps=steps,
        batch_size=values.total_batch // workers,
        num_rounds=rounds,
        eval_every=max(1, rounds // values.evaluations),
        audit_every=rounds,
        uplink=uplink,
        downlink="identity()" if gathers else downlink,
        algorithm=algorithm,
        client_optimizer="sgd(1.0)" if sends_gradients else values.client_optimizer,
        server_optimizer=values.client_optimizer if outer == INNER else outer,
        gathered=gathers,
    )
    for flag in ("uplink", "downlink", "server_optimizer"):
        build(flag, str(variant._asdict()[flag]))
    return variant


def warm_variant(values: flags.FlagValues) -> Variant:
    """The warm start: one worker alone, with the batches of all unless told others."""
    return Variant(
        name="warm",
        num_clients=1,
        cohort_size=1,
        local_steps=values.warm_steps,
        batch_size=values.warm_batch or values.total_batch,
        num_rounds=1,
        eval_every=1,
        audit_every=0,
        uplink="identity()",
        downlink="identity()",
        algorithm="diloco()",
        client_optimizer=values.warm_optimizer,
        server_optimizer="sgd(1.0)",
        gathered=False,
    )
