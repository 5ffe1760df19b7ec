"""Bytes and seconds of a secure sum, beside a sum without masks.

    python -m experiments.benchmark.secure_sum

All parties' steps run one after another on this host. A client's seconds are the mean
over clients of the seconds of their steps, and the server's are those of its own steps.
"""

import os
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from absl import app, flags

from fedjax_comp.privacy import secure_client, secure_server
from fedjax_comp.privacy.integers import bits_for_sum
from fedjax_comp.privacy.messages import Setting, secure_setting, write_residues
from fedjax_comp.privacy.secure_sum import Step, secure_sum

FLAGS = flags.FLAGS
Made = TypeVar("Made")


def define_flags() -> None:
    """Defines this script's flags; called once, when it is run."""
    flags.DEFINE_multi_integer("clients", [10, 100], "Clients in the sum.")
    flags.DEFINE_integer("n", 199_210, "Integers in a vector.", lower_bound=1)
    flags.DEFINE_integer("levels", 255, "Levels of a client's numbers.", lower_bound=3)
    flags.DEFINE_float("dropped", 0.1, "Share of clients gone before their vector.")
    flags.DEFINE_integer("repeats", 3, "Sums timed of each.", lower_bound=1)


class Seconds(NamedTuple):
    """Where the time of one sum goes.

    Attributes:
      client: one client's four steps, the mean.
      server: the server's four.
      clear: adding the same vectors in the clear.
    """

    client: float
    server: float
    clear: float


def timed(call: Callable[[], Made]) -> tuple[float, Made]:
    """The seconds that `call` takes and what it returns."""
    started = time.perf_counter()
    made = call()
    return time.perf_counter() - started, made


def seconds_of(
    setting: Setting, vectors: npt.NDArray[np.int64], stay: Sequence[int]
) -> Seconds:
    """Times `secure_sum` step by step; the places not in `stay` drop at `Step.MASK`."""
    everyone = range(1, setting.parties + 1)
    asked, keys = timed(
        lambda: {p: secure_client.advertise(os.urandom, p) for p in everyone}
    )
    served, roster = timed(
        lambda: secure_server.make_roster(setting, {p: keys[p][1] for p in everyone})
    )
    sharing, shared = timed(
        lambda: {
            p: secure_client.share_secrets(os.urandom, setting, keys[p][0], roster)
            for p in everyone
        }
    )
    routing, boxes = timed(
        lambda: secure_server.route_envelopes(
            setting, roster, {p: shared[p][1] for p in everyone}
        )
    )
    masking, masked = timed(
        lambda: {
            p: secure_client.mask_vector(
                setting, shared[p][0], boxes[p], vectors[p - 1]
            )
            for p in stay
        }
    )
    adding, (masked_sum, summed) = timed(
        lambda: secure_server.add_masked(setting, {p: masked[p][1] for p in stay})
    )
    answering, answers = timed(
        lambda: {p: secure_client.answer(setting, masked[p][0], summed) for p in stay}
    )
    unmasking, total = timed(
        lambda: secure_server.unmask(
            setting, roster, frozenset(everyone), frozenset(stay), masked_sum, answers
        )
    )
    clear, expected = timed(lambda: vectors[np.array(stay) - 1].sum(axis=0))
    if not np.array_equal(expected, total):
        raise RuntimeError("The secure sum is not the sum in the clear.")
    client = (asked + sharing) / len(everyone) + (masking + answering) / len(stay)
    return Seconds(client, served + routing + adding + unmasking, clear)


def measure(parties: int, dropped: int) -> str:
    """A line of the table: one size of cohort, some of it dropping out."""
    magnitude = FLAGS.levels // 2
    bits = bits_for_sum(parties, magnitude)
    setting = secure_setting(parties=parties, n=FLAGS.n, bits=bits, tag=b"benchmark")
    rng = np.random.default_rng(0)
    shape = (parties, FLAGS.n)
    vectors = rng.integers(-magnitude, magnitude, shape, endpoint=True)
    stay = range(dropped + 1, parties + 1)
    times = [seconds_of(setting, vectors, stay) for _ in range(FLAGS.repeats)]
    best = Seconds(*map(min, zip(*times, strict=True)))

    gone = dict.fromkeys(range(dropped), Step.MASK)
    sent = secure_sum(os.urandom, setting, list(vectors), drops=gone).traffic
    up, down = sent.uplink_bytes[:, -1], sent.downlink_bytes[:, -1]
    alone = (magnitude * 2).bit_length()
    plain = len(write_residues(np.zeros(FLAGS.n, np.uint64), alone))
    extra = int(up.sum() + down.sum() - up[Step.MASK])
    cells = [
        parties,
        dropped,
        bits,
        plain,
        int(up[Step.MASK]),
        extra,
        f"{(up.sum() + down.sum()) / plain:.3f}",
        f"{best.client:.4f}",
        f"{best.server:.4f}",
        f"{best.clear:.4f}",
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def main(argv: Sequence[str]) -> None:
    """Prints the table."""
    del argv
    columns = (
        "clients",
        "dropped",
        "bits",
        "clear bytes",
        "masked bytes",
        "keys and shares",
        "ratio",
        "client s",
        "server s",
        "clear s",
    )
    print("| " + " | ".join(columns) + " |")
    print("|" + " --- |" * len(columns))
    for parties in FLAGS.clients:
        for dropped in sorted({0, round(FLAGS.dropped * parties)}):
            print(measure(parties, dropped), flush=True)


if __name__ == "__main__":
    define_flags()
    app.run(main)
