"""The clock of a problem: its rounds timed on simulated links and devices."""

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_comp.algorithms.wrappers import admitted
from fedjax_comp.hooks import Hook, Live
from fedjax_comp.invited import Invited, next_cohort
from fedjax_comp.network.setting import Setting
from fedjax_comp.network.simulation import Simulation
from fedjax_comp.problem import Problem
from fedjax_comp.server.unicast import Listener
from fedjax_comp.training import Dispatch, TrainState


def simulate(setting: Setting, problem: Problem) -> Hook:
    """A clock for a problem's own cohorts.

    Args:
      setting: links, devices and what the server waits for.
      problem: what is run.

    Returns:
      A hook that gives orders before every round, so rounds go one by one. All that it
      has to remember is in the ledger, and so in every checkpoint.

    Raises:
      ValueError: when the setting has a controller and no ladder, and for clients that
        are away at times together with a broadcast that everyone must hear.
    """
    _check_heard(setting, problem)
    draw = jax.jit(next_cohort(problem.sample))

    def cohort_of(state: TrainState) -> Invited:
        # By value: the state moves between devices, and each place would be compiled.
        key = jax.random.wrap_key_data(
            jnp.asarray(np.asarray(jax.random.key_data(state.key))),
            impl=jax.random.key_impl(state.key),
        )
        drawn = draw(key, np.int32(state.round), problem.data)
        return jax.tree.map(np.asarray, drawn)

    simulation = Simulation(setting, cohort_of, problem.algorithm.params)

    def begin(live: Live, state: TrainState) -> TrainState:
        simulation.begin(live.ledger)
        return state

    def before(live: Live, state: TrainState) -> TrainState:
        return simulation.before_round(state, live.ledger)

    def after(live: Live, state: TrainState, dispatch: Dispatch) -> None:
        simulation.after_round(state, dispatch.infos, live.ledger)

    return Hook(
        wrap=admitted,
        begin=begin,
        before=before,
        after=after,
        every=1,
        whole_clients=True,
    )


def _check_heard(setting: Setting, problem: Problem) -> None:
    """Refuses a broadcast with memory at its receivers where clients are away.

    Raises:
      ValueError: for such links and such a downlink, unless each client is told alone.
    """
    downlink = problem.links.get("downlink")
    if downlink is None or all(link.presence is None for link in setting.links):
        return
    memory = jax.eval_shape(downlink.init, problem.params).receiver
    if not jax.tree.leaves(memory):
        return
    _, client = jax.eval_shape(
        problem.algorithm.init, jax.random.key(0), problem.params
    )
    parts = jax.tree.leaves(client, is_leaf=lambda x: isinstance(x, Listener))
    if not any(isinstance(part, Listener) for part in parts):
        raise ValueError(
            "Expected a downlink without memory at the receiver with intermittent() "
            "links: who is away would miss a broadcast and could not decode the next; "
            "fed_avg() can also do with unicast=True."
        )
