"""What several algorithms refuse alike, in a line: links, populations, schedules."""

import jax
import jax.numpy as jnp
import optax
import pytest

from fedjax_comp import models
from fedjax_comp.algorithms import (
    diloco,
    fed_avg,
    fed_buff,
    fed_distill,
    fed_dyn,
    fed_nova,
    fetch_sgd,
    locodl,
    marina,
    mime_lite,
    optimal_sampling,
    scaffnew,
    scaffold,
    secure_fed_avg,
    split_learning,
    streaming_diloco,
)
from fedjax_comp.algorithms.wrappers import gathered
from fedjax_comp.compress import common_range, differenced, identity, random_k, top_k
from fedjax_comp.models.split import split_classification
from tests.problems import make_cohort, softmax_task, stack_clients

TASK, SGD = softmax_task(), {"client_optimizer": optax.sgd(0.1)}
OF_K = {**SGD, "population": 2}


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (diloco, SGD),
        (fed_avg, SGD),
        (fed_distill, {**SGD, "public": jnp.ones((2, 5)), "num_classes": 3}),
        (fed_dyn, OF_K),
        (fed_nova, SGD),
        (marina, {**SGD, "probability": 0.5}),
        (mime_lite, SGD),
        (optimal_sampling, {**SGD, "expected": 2}),
        (scaffold, OF_K),
        (streaming_diloco, SGD),
    ],
)
def test_a_link_that_is_no_compressor_is_refused_with_the_way_out(make, options):
    with pytest.raises(ValueError, match=r"uplink .* not top_k; write it as a call"):
        make(TASK, **options, uplink=top_k)
    with pytest.raises(ValueError, match=r"uplink .* not 'top_k\(0.1\)'"):
        make(TASK, **options, uplink="top_k(0.1)")
    sound = {**options, "uplink": random_k(0.5)}
    with pytest.raises(ValueError, match="downlink to be a compressor, not top_k"):
        make(TASK, **sound, downlink=top_k)


POPULATED = {
    "diloco": lambda k: diloco(TASK, **SGD, population=k),
    "fed_avg": lambda k: fed_avg(
        TASK, **SGD, downlink=differenced(identity()), population=k
    ),
    "fed_dyn": lambda k: fed_dyn(TASK, **SGD, population=k),
    "locodl": lambda k: locodl(
        TASK, **SGD, uplink=random_k(0.4), probability=0.5, omega=1.5, population=k
    ),
    "marina": lambda k: marina(
        TASK, **SGD, uplink=random_k(0.4), probability=0.5, population=k
    ),
    "scaffnew": lambda k: scaffnew(TASK, **SGD, population=k, probability=0.5),
    "scaffold": lambda k: scaffold(TASK, **SGD, population=k),
    "secure_fed_avg": lambda k: secure_fed_avg(
        TASK, **SGD, uplink=common_range(255, limit=0.1), population=k
    ),
}


@pytest.mark.parametrize("name", POPULATED)
def test_a_population_is_a_number_of_clients_and_holds_every_cohort(name):
    for value in (0, -1, 2.5, "4"):
        with pytest.raises(ValueError, match=f"population={value!r}"):
            POPULATED[name](value)
    cohort = make_cohort([2, 2, 2], batch_size=2)
    algorithm = POPULATED[name](2)
    server, client = algorithm.init(jax.random.key(0), TASK.init(jax.random.key(1)))
    clients = stack_clients(client, 3)
    with pytest.raises(ValueError, match="at most population=2 clients, got 3"):
        jax.eval_shape(algorithm.round, jax.random.key(2), server, clients, cohort)


def test_who_gathers_has_others():
    with pytest.raises(ValueError, match="population=1 >= 2"):
        gathered(fed_avg(TASK, **SGD), population=1)


SCHEDULED = optax.sgd(optax.linear_schedule(0.1, 0.0, 5))
SPLIT = split_classification(
    models.mlp(4)(3), ["Dense_1"], num_classes=3, input_shape=(5,)
)
ANEW = {
    "scaffold": lambda own: scaffold(TASK, client_optimizer=own, population=2),
    "fed_dyn": lambda own: fed_dyn(TASK, client_optimizer=own, population=2),
    "split client": lambda own: split_learning(
        SPLIT,
        client_optimizer=own,
        server_optimizer=optax.sgd(0.1),
        schedule="parallel",
    ),
    "split server": lambda own: split_learning(
        SPLIT,
        client_optimizer=optax.sgd(0.1),
        server_optimizer=own,
        schedule="parallel",
    ),
}


@pytest.mark.parametrize("name", ANEW)
def test_a_schedule_that_would_begin_anew_every_round_is_refused(name):
    place = "server" if name == "split server" else "client"
    with pytest.raises(ValueError, match=f"{place} optimizer without a schedule"):
        ANEW[name](SCHEDULED)
    # One that shows on the parameters alone.
    task = SPLIT.task if name.startswith("split") else TASK
    hidden = optax.multi_transform(
        {"kernel": SCHEDULED, "bias": optax.sgd(0.1)},
        lambda tree: jax.tree.map_with_path(lambda path, x: path[-1].key, tree),
    )
    algorithm = ANEW[name](hidden)
    with pytest.raises(ValueError, match=f"{place} optimizer without a schedule"):
        algorithm.init(jax.random.key(0), task.init(jax.random.key(1)))


def test_a_schedule_lasts_where_turns_hand_the_optimizer_over():
    split_learning(SPLIT, client_optimizer=SCHEDULED)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (fed_buff, {"exponent": float("nan")}, "exponent=nan"),
        (fed_buff, {"max_staleness": 2.5}, "max_staleness=2.5, an integer"),
        (fetch_sgd, {"rows": 1, "columns": 3, "k": 2.5}, "k=2.5, an integer"),
    ],
)
def test_a_number_out_of_its_range_is_named(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(TASK, **SGD, **options)
