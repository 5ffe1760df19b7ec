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
from experiments.data_collaboration.claims import claims_of, summarise
from experiments.data_collaboration.flags import QUICK, define
from experiments.data_collaboration.learn import learning
from experiments.data_collaboration.methods import (
    centralised,
    collaboration,
    federated_averaging,
    individual,
)
from experiments.data_collaboration.plot import draw_figures
from experiments.data_collaboration.variants import Variant, parse_variants
from fedjax_comp.base import Compressor
from fedjax_comp.experiment.expressions import build
from fedjax_comp.experiment.flags import apply_quick, as_dict
from fedjax_comp.experiment.main import UsageError, run_main
from fedjax_comp.experiment.measurements import complete, measure_missing
from fedjax_comp.experiment.table import to_csv
from fedjax_comp.keys import make_key
from fedjax_comp.one_shot.data_collaboration import upload_link
from fedjax_comp.one_shot.private_maps import apply_map
from fedjax_comp.report import Table
from fedjax_comp.run_directory import Json, open_run, write_text

NAME = "data_collaboration"
COLUMNS = (
    "method",
    "users",
    "examples",
    "test_accuracy",
    "spread",
    "trials",
    "uplink_bytes",
    "downlink_bytes",
)
"""Of `table.csv`; the spread is the standard deviation over the trials."""


def main(argv: Sequence[str] | None = None) -> None:
    """The command: measures or resumes, then writes the run directory."""

    def body(values: flags.FlagValues) -> None:
        apply_quick(values, **QUICK)
        run(values)

    run_main(NAME, define(), body, argv)


def run(values: flags.FlagValues) -> Json:
    """Measures what the directory does not hold yet; `ValueError` for a mistake."""
    variants = parse_variants(values.variant)
    build("model", values.model)
    build("client_optimizer", values.optimizer)
    directory = open_run(values.workdir, NAME, as_dict(values))
    if directory.finished is not None:
        print(f"{directory.path} has finished; nothing was changed.")
        return directory.finished
    material = load_material(values)
    jobs = make_jobs(values, material, variants)
    rows, failures = measure_missing(
        directory, jobs, show=to_line if values.progress else None
    )
    table = summarise(rows)
    write_text(directory.path / "table.csv", to_csv(COLUMNS, table))
    first = variants[0].name
    summary: Json = {
        "experiment": NAME,
        "dataset": values.dataset,
        "model": values.model,
        "measured": len(rows),
        "failures": failures,
        "table": table,
        "claims": claims_of(table, failures, first, values),
    }
    best = max(table, key=lambda one: one["test_accuracy"])
    return complete(
        directory,
        summary,
        title=f"Data collaboration on {values.dataset}",
        headlines={
            "measured": len(rows),
            "best_method": best["method"],
            "best_test_accuracy": best["test_accuracy"],
        },
        tables=[
            Table(
                "Means over trials",
                COLUMNS,
                [[one[name] for name in COLUMNS] for one in table],
                "The spread is the standard deviation over trials.",
            )
        ],
        figures=draw_figures(
            table, sweeps(values), first, values, directory.figures_path
        ),
        failures=failures,
    )


def make_jobs(
    values: flags.FlagValues, material: Material, variants: Sequence[Variant]
) -> Mapping[str, Callable[[], Json]]:
    """Every measurement by its name, trial after trial.

    The first variant is measured wherever its rivals are; the others where users and
    examples are the base ones.
    """
    base = Cell(values.base_users, values.base_examples)
    swept = [cell for cells in sweeps(values).values() for cell in cells]
    cells = list(dict.fromkeys([*swept, base]))
    check_variants(values, material, variants, cells)
    raw = learning(values, material.train.x.shape[1], material.num_classes)
    common = learning(values, values.dimension, material.num_classes)
    links = {
        one.name: compiled(
            upload_link(one.compressor, num_classes=material.num_classes)
        )
        for one in variants
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
            (variant,) = (one for one in variants if one.name == name)
            row = collaboration(
                common,
                key,
                users,
                public,
                material.test,
                variant,
                links[name],
                values.dimension,
            )
        return {"method": name, **cell._asdict(), "trial": trial, **row}

    jobs: dict[str, Callable[[], Json]] = {}
    for trial in range(values.num_trials):
        for cell in cells:
            others = [one.name for one in variants[1:]] if cell == base else []
            rivals = ["individual", "centralised", "fed_avg"]
            for name in [variants[0].name, *rivals, *others]:
                job = f"{name}, {cell.users} x {cell.examples}, trial {trial}"
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


def to_line(row: Json) -> str:
    """A row as one line for the terminal."""
    return f"{row['job']:<44}{row['test_accuracy']:.4f}  {row['total_bytes']:,} bytes"
