"""A run that follows a timetable: its cohorts inside jit, its clock on the host."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_comp.base import Cohort
from fedjax_comp.data import FederatedData
from fedjax_comp.data.cohort import make_batches
from fedjax_comp.hooks import Hook, Live
from fedjax_comp.network.timetable import Timetable
from fedjax_comp.training import Dispatch, Sampler, TrainState


class Timed(NamedTuple):
    """A population and who is in each round; it may be passed through jit.

    Attributes:
      population: the clients' examples.
      clients: int32 `[R, C]`.
      staleness: int32 `[R, C]`.
      active: bool `[R, C]`.
    """

    population: FederatedData
    clients: jax.Array
    staleness: jax.Array
    active: jax.Array


def timed(population: FederatedData, table: Timetable) -> Timed:
    """The data of a run that follows `table`."""
    return Timed(
        population,
        jnp.asarray(table.clients),
        jnp.asarray(table.staleness),
        jnp.asarray(table.active),
    )


def timed_cohorts(*, epochs: int, batch_size: int) -> Sampler:
    """Cohorts by a timetable, batches shuffled every epoch.

    Args:
      epochs: local passes over a client's data.
      batch_size: `B`; 0 is all of a client's examples in one batch.

    Returns:
      A `Sampler` over `Timed`. A client's batches are those that `uniform_cohorts`
      would give it in the round in which it arrives.
    """

    def sample(key: jax.Array, round_index: jax.Array, data: Timed) -> Cohort:
        _, batch_key = jax.random.split(key)
        population = data.population
        clients = make_batches(
            batch_key,
            population.order,
            population.offsets,
            data.clients[round_index],
            max_client_size=population.spec.max_client_size,
            epochs=epochs,
            batch_size=batch_size,
        )
        active = clients.active & data.active[round_index]
        return Cohort(
            population.examples,
            clients._replace(active=active),
            data.staleness[round_index],
        )

    return sample


def timetable_clock(table: Timetable) -> Hook:
    """The clock of a run that follows a timetable; it gives no orders.

    Args:
      table: of at least as many steps as the run has rounds.

    Returns:
      A hook whose `after` sets the ledger's clock to the last round it has recorded,
      and raises `ValueError` when the timetable is shorter than the run.
    """

    def begin(live: Live, state: TrainState) -> TrainState:
        ledger = live.ledger
        if ledger.simulated_seconds is None:
            ledger.simulated_seconds, ledger.joules = 0.0, 0.0
        return state

    def after(live: Live, state: TrainState, dispatch: Dispatch) -> None:
        del state, dispatch
        ledger = live.ledger
        last = ledger.rounds - 1
        if last >= table.seconds.size:
            raise ValueError(
                f"Expected a timetable of {ledger.rounds} steps or more, got "
                f"{table.seconds.size}."
            )
        ledger.simulated_seconds = float(table.seconds[last])
        ledger.joules = float(table.joules[last])
        ledger.observed["discarded_clients"] = float(table.discarded[last])

    return Hook(begin=begin, after=after)
