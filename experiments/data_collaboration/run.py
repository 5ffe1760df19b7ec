"""Data collaboration against training alone, on all raw data, and in rounds."""

import functools
import zlib
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from absl import flags

from experiments.data_collaboration.cells import (
    Cell,
    Material,
    draw,
    load_material,
    sweeps,
)
from experiments.data_collaboration.flags import (
    QUICK,
    RIVALS,
    Variant,
    define,
    parse_variants,
)
from experiments.data_collaboration.learn import learning
from experiments.data_collaboration.methods import (
    centralised,
    collaboration,
    federated_averaging,
    individual,
)
from experiments.data_collaboration.outcome import (
    LEAKAGE,
    claims,
    figures,
    summarise,
)
from fedjax_comp.base import Compressor
from fedjax_comp.experiment.main import UsageError
from fedjax_comp.experiment.measurements import Measurements
from fedjax_comp.keys import make_key
from fedjax_comp.one_shot.data_collaboration import upload_link
from fedjax_comp.one_shot.private_maps import apply_map
from fedjax_comp.run_directory import Json

COLUMNS = (
    "method",
    "num_clients",
    "examples",
    "test_accuracy",
    "spread",
    "trials",
    "uplink_bytes",
    "downlink_bytes",
    "total_bytes",
    *LEAKAGE,
)
"""Of `table.csv`; the spread is the standard deviation over the trials.
`recovered_cosine` is that of the other users' inputs with what the server and the first
user recover of them, `guessed_cosine` the same with that user's mean input, and
`row_epsilon`, at a delta of 1e-5, of the noise on representations alone."""


def make_jobs(values: flags.FlagValues) -> Mapping[str, Callable[[], Json]]:
    """Every measurement by its name, trial after trial.

    The first variant is measured wherever its rivals are; the others where users and
    examples are the base ones.
    """
    variants = {one.name: one for one in parse_variants(values.variant)}
    first, *others = variants
    material = load_material(values)
    base = Cell(values.base_clients, values.base_examples)
    swept = [cell for cells in sweeps(values).values() for cell in cells]
    cells = list(dict.fromkeys([*swept, base]))
    check_variants(values, material, list(variants.values()), cells)
    raw = learning(values, material.train.x.shape[1], material.num_classes)
    common = learning(values, values.dimension, material.num_classes)
    links = {
        one.name: compiled(
            upload_link(one.compressor, num_classes=material.num_classes)
        )
        for one in variants.values()
    }

    def measure(name: str, cell: Cell, trial: int) -> Json:
        users, public = draw(
            material, cell, seed=values.seed, trial=trial, num_public=values.num_public
        )
        key = jax.random.fold_in(make_key(values.seed), trial)
        key = jax.random.fold_in(key, zlib.crc32(name.encode()))
        if name == "individual":
            row = individual(raw, key, users, material.test)
        elif name == "centralised":
            row = centralised(
                raw,
                key,
                users,
                material.test,
                stored=material.stored,
                num_classes=material.num_classes,
            )
        elif name == "fed_avg":
            row = federated_averaging(raw, key, users, material.test)
        else:
            row = collaboration(
                common,
                key,
                users,
                public,
                material.test,
                variants[name],
                links[name],
                values.dimension,
            )
        return {"method": name, **cell._asdict(), "trial": trial, **row}

    jobs: dict[str, Callable[[], Json]] = {}
    for trial in range(values.num_trials):
        for cell in cells:
            for name in [first, *RIVALS, *(others if cell == base else [])]:
                job = f"{name}, {cell.num_clients} x {cell.examples}, trial {trial}"
                jobs[job] = functools.partial(measure, name, cell, trial)
    return jobs


def check_variants(
    values: flags.FlagValues,
    material: Material,
    variants: Sequence[Variant],
    cells: Sequence[Cell],
) -> None:
    """Tries every variant on its smallest cell, so that a mistake ends the command."""
    fewest = min(cell.examples for cell in cells)
    inputs = jax.ShapeDtypeStruct((1, material.train.x.shape[1]), jnp.float32)
    key = jax.eval_shape(lambda: make_key(0))
    for i, variant in enumerate(variants):
        examples = values.base_examples if i else fewest
        x = jax.ShapeDtypeStruct((examples, *inputs.shape[1:]), jnp.float32)
        public = jax.ShapeDtypeStruct(
            (values.num_public, *inputs.shape[1:]), jnp.float32
        )
        try:
            anchor = jax.eval_shape(variant.anchor, key, public)
            private = jax.eval_shape(variant.fit, key, x)
            sent = jax.eval_shape(apply_map, private, anchor)
        except ValueError as error:
            raise UsageError(
                f"--variant={variant.name} with {examples} examples a user: {error}"
            ) from error
        if values.dimension > min(sent.shape):
            raise UsageError(
                f"--dimension={values.dimension} is more than the "
                f"{sent.shape[1]} components or the {sent.shape[0]} rows of the anchor "
                f"of --variant={variant.name}."
            )


def compiled(link: Compressor) -> Compressor:
    """The same link with both ends compiled."""
    return link._replace(encode=jax.jit(link.encode), decode=jax.jit(link.decode))


def headlines(rows: Sequence[Json]) -> Json:
    """What a report shows first."""
    best = max(rows, key=lambda one: one["test_accuracy"])
    return {
        "settings": len(rows),
        "best_method": best["name"],
        "best_test_accuracy": best["test_accuracy"],
    }


MEASUREMENTS = Measurements(
    name="data_collaboration",
    define=define,
    quick=QUICK,
    jobs=make_jobs,
    summarise=summarise,
    columns=COLUMNS,
    claims=claims,
    figures=figures,
    title=lambda values: f"Data collaboration on {values.dataset}",
    headlines=headlines,
    note="Means over trials; the spread is the standard deviation over them.",
    show=lambda row: (
        f"{row['name']:<44}{row['test_accuracy']:.4f}  {row['total_bytes']:,} bytes"
        + (
            f", inputs recovered to cosine {row['recovered_cosine']:.3f}"
            if row.get("recovered_cosine") is not None
            else ""
        )
    ),
)
main = MEASUREMENTS.main
