"""A logged run that takes seconds: softmax regression of four clients."""

import jax
import jax.numpy as jnp
import optax

from fedjax_comp.algorithms.fed_avg import fed_avg
from fedjax_comp.audit.hooks import logged
from fedjax_comp.compress import qsgd
from fedjax_comp.run import Problem, Schedule, run
from fedjax_comp.run_directory import open_run, write_json
from fedjax_comp.training import Evaluation
from tests.audit.logs import SIGNER
from tests.problems import make_cohort, make_examples, softmax_task

KEY = jax.random.key(3)
SIZES = [4, 0, 6, 5]
ROUNDS = 6


def problem(**options):
    task = softmax_task()
    uplink = qsgd(4)
    algorithm = fed_avg(
        task,
        client_optimizer=optax.sgd(0.1),
        uplink=uplink,
        **{"keep_messages": True, **options},
    )

    def sample(key, round_index, data):
        del round_index
        order = jax.random.permutation(key, len(SIZES))
        return data._replace(clients=jax.tree.map(lambda x: x[order], data.clients))

    def evaluate(params, examples):
        return Evaluation(jnp.sum(params["bias"]), jnp.mean(examples.x), {})

    return Problem(
        algorithm=algorithm,
        sample=sample,
        data=make_cohort(SIZES, 2),
        params=task.init(jax.random.key(0)),
        num_clients=len(SIZES),
        evaluate=evaluate,
        test=make_examples(3),
        links={"uplink": uplink},
    )


def logged_run(path, *, signer=SIGNER, **options):
    directory = open_run(path, "small", {"seed": 3})
    ledger, params, summary = run(
        directory,
        problem(**options),
        Schedule(ROUNDS, eval_every=2, checkpoint_every=2),
        KEY,
        show_progress=False,
        hooks=[] if signer is None else [logged(signer)],
    )
    write_json(path / "summary.json", summary)
    return ledger, params
