"""One federated run with a compressor on each link, from flags to its run directory."""

from collections.abc import Sequence

from absl import flags

from experiments.fed_avg.flags import QUICK, define
from experiments.fed_avg.privacy import (
    asked_algorithm,
    check_asked_for,
    is_private,
    make_private,
    privacy_spent,
)
from fedjax_comp.experiment.algorithms import (
    Chosen,
    check_asked,
    check_cohort,
    links_of,
    make_algorithm,
)
from fedjax_comp.experiment.clients import evaluate_clients
from fedjax_comp.experiment.expressions import build
from fedjax_comp.experiment.finish import execute
from fedjax_comp.experiment.flags import apply_quick, as_dict
from fedjax_comp.experiment.lateness import counts_late, staleness_of
from fedjax_comp.experiment.main import UsageError, run_main, use_host_cores
from fedjax_comp.experiment.outcome import claim, failure_claims
from fedjax_comp.experiment.pipelines import Variant
from fedjax_comp.experiment.problem import (
    build_federation,
    initial_key,
    keeps_messages,
)
from fedjax_comp.network.timed_cohorts import timed_cohorts
from fedjax_comp.run import Problem
from fedjax_comp.run_directory import Json
from fedjax_comp.training import Sampler, evaluation_program


def main(argv: Sequence[str] | None = None) -> None:
    """The command: parses flags, runs or resumes, writes the run directory."""

    def body(values: flags.FlagValues) -> None:
        apply_quick(values, **QUICK)
        use_host_cores()
        execute(
            "fed_avg",
            values,
            lambda: build_problem(values),
            claims,
            privacy_spent(values),
        )

    run_main("fed_avg", define(), body, argv)


def build_problem(values: flags.FlagValues) -> Problem:
    """What the flags describe, ready to run."""
    client_optimizer = build("client_optimizer", values.client_optimizer)
    server_optimizer = build("server_optimizer", values.server_optimizer)
    model_key, run_key = initial_key(values)
    mechanism = make_private(
        values, build_federation(values), server_optimizer, run_key
    )
    federation = mechanism.federation
    chosen, sample = choose(values, federation.sample)
    params = federation.task.init(model_key)
    given = {
        "client_optimizer": client_optimizer,
        "server_optimizer": mechanism.server_optimizer,
        "uplink": federation.uplink,
        "downlink": federation.downlink,
        "aggregation": mechanism.aggregation,
        "noise": mechanism.noise,
        "population": values.num_clients,
        "num_classes": federation.population.spec.num_classes,
        "public": federation.public,
        "execution": federation.execution,
        "proximal": values.proximal,
        "keep_messages": keeps_messages(values),
    }
    algorithm = make_algorithm(chosen, federation.task, given, as_dict(values))
    return Problem(
        algorithm=algorithm,
        sample=sample,
        data=federation.population,
        params=params,
        num_clients=federation.population.spec.num_clients,
        evaluate=evaluation_program(
            federation.task, federation.execution, batch_size=values.eval_batch_size
        ),
        test=federation.population.test,
        links=links_of(chosen, federation.uplink, federation.downlink),
        evaluate_clients=evaluate_clients(
            federation.task, federation.execution, federation.blocks
        ),
        task=federation.task,
    )


def choose(values: flags.FlagValues, sample: Sampler) -> tuple[Chosen, Sampler]:
    """The algorithm of the flags, and who takes part in its rounds.

    Raises:
      UsageError: for flags that do not go together.
    """
    chosen = asked_algorithm(values)
    late = counts_late(values)
    own_mean = (
        chosen.name in ("fed_avg", "secure_fed_avg") and "aggregation" not in chosen.own
    )
    if is_private(values) and (late or not own_mean or values.client_sampling):
        raise UsageError(
            "--dp_clip: epsilon is accounted for fed_avg() and secure_fed_avg() with "
            "cohorts drawn uniformly; leave another --algorithm, "
            "--client_sampling, --concurrency and --late_updates out."
        )
    check_cohort(values.algorithm, chosen, values.cohort_size)
    if not late:
        return chosen, sample
    if chosen.name not in ("fed_avg", "fed_buff") or chosen.own:
        raise UsageError(
            f"--algorithm={values.algorithm}: late updates are counted by fed_buff(), "
            "whose arguments are --max_staleness and --staleness_exponent; leave "
            "--algorithm out."
        )
    timed = timed_cohorts(epochs=values.local_epochs, batch_size=values.batch_size)
    return Chosen("fed_buff", staleness_of(values)._asdict()), timed


def check_task(values: flags.FlagValues, pipelines: Sequence[Variant] = ()) -> None:
    """Builds what all pipelines share, so that a mistake in it ends the command.

    Args:
      values: the command's flags.
      pipelines: their algorithms must have an argument for every flag that is set.
    """
    for one in pipelines:
        own = one._asdict()
        chosen = asked_algorithm(values, str(own["algorithm"]))
        check_asked(chosen, {**as_dict(values), **own})
        check_cohort(str(own["algorithm"]), chosen, values.cohort_size)
    for name in ("algorithm", "client_optimizer", "server_optimizer"):
        build(name, str(values[name].value))
    check_asked_for(values)
    build_federation(values)


def claims(summary: Json) -> list[Json]:
    """What the README says a run shows, held against this one."""
    made = failure_claims("run", [{**summary, "reason": ""}])
    if summary["target_accuracy"] is not None:
        made += claim(
            "best test accuracy reaches the target",
            summary["target_accuracy"],
            summary["best_test_accuracy"],
            at_least=True,
        )
    return made
