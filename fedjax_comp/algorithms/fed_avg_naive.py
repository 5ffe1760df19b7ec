"""Federated averaging in plain loops: the teaching twin of `fed_avg`.

Nothing is jitted, scanned or compressed here; names are those of `fed_avg`, and a test
holds the two equal. Read this one first.

Source: McMahan et al. 2017 (arXiv 1602.05629), Algorithm 1.
"""

import jax
import optax

from fedjax_comp.base import Cohort, PyTree, Task


def fed_avg_naive(
    task: Task,
    params: PyTree,
    cohort: Cohort,
    *,
    client_optimizer: optax.GradientTransformation,
) -> PyTree:
    """One round of federated averaging.

    Args:
      task: the model and its loss.
      params: the server's model.
      cohort: the round's clients and the examples they point into.
      client_optimizer: the local optimizer, started afresh for each client.

    Returns:
      The server's model after the round: `sum_i n_i w_i / sum_i n_i`.
    """
    total, total_examples = None, 0
    for i in range(cohort.clients.client_id.shape[0]):
        client = jax.tree.map(lambda x, i=i: x[i], cohort.clients)
        if not client.active:
            continue
        local, opt_state = params, client_optimizer.init(params)
        steps = zip(client.rows, client.mask, strict=True)
        for step, (rows, mask) in enumerate(steps):
            if not mask.any():
                continue
            batch = jax.tree.map(lambda x, rows=rows: x[rows], cohort.examples)
            key = jax.random.fold_in(client.key, step)
            grads = jax.grad(task.loss)(local, batch, mask, key)
            updates, opt_state = client_optimizer.update(grads, opt_state, local)
            before, local = local, optax.apply_updates(local, updates)
            if task.observe is not None:
                local = task.observe(before, local, batch, mask, key)
        num_examples = int(client.num_examples)
        share = jax.tree.map(lambda w, n=num_examples: n * w, local)
        total = (
            share if total is None else jax.tree.map(lambda a, b: a + b, total, share)
        )
        total_examples += num_examples
    if total is None:
        return params
    return jax.tree.map(lambda w: w / total_examples, total)
