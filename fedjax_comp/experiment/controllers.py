"""Controllers of the uplink's budgets, as flags name them.

A controller chooses from the curve of the run's own uplink, which is measured when the
run begins. So a flag makes a rule, from which the controller is made once the curve is
known.
"""

import ast
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from fedjax_comp import checks
from fedjax_comp.base import Compressor, PyTree
from fedjax_comp.experiment.errors import UsageError
from fedjax_comp.keys import make_key
from fedjax_comp.network import arrival_control, control, timed_control
from fedjax_comp.network.control import Controller, Ladder
from fedjax_comp.network.steering import steered
from fedjax_comp.problem import Problem
from fedjax_comp.training import init_state, round_program


class Rule(NamedTuple):
    """What `--controller` makes.

    Attributes:
      make: `(ladder) -> Controller`, of the measured ladder.
    """

    make: Callable[[Ladder], Controller]


_ANY = Ladder(np.array([1.0, 2.0]), np.array([0.5, 0.1]), 1)


def _rule(make: Callable[[Ladder], Controller]) -> Rule:
    """A rule whose arguments are checked before anything is measured."""
    make(_ANY)
    return Rule(make)


def fixed(bits_per_coordinate: float) -> Rule:
    """Always the same budget.

    Args:
      bits_per_coordinate: of the whole update.

    Raises:
      ValueError: unless it is positive.
    """
    checks.positive("bits_per_coordinate", bits_per_coordinate)
    return _rule(lambda ladder: control.fixed(_bits(bits_per_coordinate, ladder)))


def kimad(allowed_seconds: float) -> Rule:
    """`control.kimad`: what passes in the seconds allowed."""
    rule = control.kimad(allowed_seconds)
    return _rule(lambda ladder: rule)


def accordion(
    hard: float, gentle: float, *, threshold: float = 0.5, interval: int = 10
) -> Rule:
    """`control.accordion`, its two budgets in bits a coordinate."""
    return _rule(
        lambda ladder: control.accordion(
            _bits(hard, ladder),
            _bits(gentle, ladder),
            threshold=threshold,
            interval=interval,
        )
    )


def ada_quant(*, levels: int = 2, rising: bool = True) -> Rule:
    """`control.ada_quant`: levels that follow the loss."""
    return _rule(
        lambda ladder: control.ada_quant(
            ladder.num_parameters, levels=levels, rising=rising
        )
    )


def dada_quant(*, levels: int = 1, patience: int = 5, smoothing: float = 0.9) -> Rule:
    """`control.dada_quant`: more levels when the loss stalls."""
    return _rule(
        lambda ladder: control.dada_quant(
            ladder.num_parameters,
            levels=levels,
            patience=patience,
            smoothing=smoothing,
        )
    )


def water_filling(*, kappa: float = 1.0, least_share: float = 0.5) -> Rule:
    """`timed_control.water_filled`: all finish together, encoding taken for free."""
    return _rule(
        lambda ladder: timed_control.water_filled(
            ladder, kappa=kappa, least_share=least_share
        )
    )


def hardware_aware(*, kappa: float = 1.0, least_share: float = 0.5) -> Rule:
    """`timed_control.hardware_aware`: encoding and decoding are paid for."""
    return _rule(
        lambda ladder: timed_control.hardware_aware(
            ladder, kappa=kappa, least_share=least_share
        )
    )


def everyone_speaks(bits_per_coordinate: float, *, share: float = 0.6) -> Rule:
    """`arrival_control.everyone_speaks`: late clients send the shortest message."""
    checks.positive("bits_per_coordinate", bits_per_coordinate)
    return _rule(
        lambda ladder: arrival_control.everyone_speaks(
            ladder, _bits(bits_per_coordinate, ladder), share=share
        )
    )


def first_arrivals(*, share: float = 0.6) -> Rule:
    """`arrival_control.first_arrivals`: set `--report_goal` to this share."""
    return _rule(lambda ladder: arrival_control.first_arrivals(ladder, share=share))


NAMES: dict[str, object] = {
    made.__name__: made
    for made in (
        fixed,
        kimad,
        accordion,
        ada_quant,
        dada_quant,
        water_filling,
        hardware_aware,
        everyone_speaks,
        first_arrivals,
    )
}


def _bits(rate: float, ladder: Ladder) -> float:
    return rate * ladder.num_parameters


def check_budgets(values: flags.FlagValues) -> None:
    """Refuses budgets that nobody sets, and controllers whose orders nobody heeds.

    Raises:
      UsageError: when it does.
    """
    controller = values.controller if "controller" in values else None
    for name in ("uplink", "downlink"):
        text = values[name].value if name in values else None
        if not isinstance(text, str) or not (heeding := heeds_budget(text)):
            continue
        if name == "uplink" and controller:
            continue
        way = (
            "set one by --controller, e.g. --controller='fixed(1.0)', with a network"
            if name == "uplink" and "controller" in values
            else "take a compressor without one"
        )
        raise UsageError(
            f"--{name}={text}: nobody tells {heeding} its budget, so that it would "
            f"send all it can; {way}."
        )
    if not controller:
        return
    if not heeds_budget(str(values.uplink)):
        raise UsageError(
            f"--controller={controller}: --uplink={values.uplink} heeds no budget; "
            "budgeted_* and ladder(...) do."
        )
    if not values.network and not values.devices:
        raise UsageError(
            f"--controller={controller} needs links or devices to judge by, e.g. "
            "--network='lognormal()'."
        )


def heeds_budget(expression: str) -> str:
    """The first compressor of an expression that heeds a budget, or an empty string.

    >>> heeds_budget("error_feedback(budgeted_top_k(0.1))"), heeds_budget("qsgd(3)")
    ('budgeted_top_k', '')
    """
    try:
        parsed = ast.parse(expression.strip(), mode="eval")
    except SyntaxError:
        return ""  # told, with its place, where the expression is built
    for node in ast.walk(parsed):
        if isinstance(node, ast.Name) and (
            node.id.startswith("budgeted_") or node.id == "ladder"
        ):
            return node.id
    return ""


def uplink_of(values: flags.FlagValues, uplink: Compressor) -> Compressor:
    """The uplink that hears its controller, where the flags name one."""
    if "controller" in values and values.controller:
        return steered(uplink)
    return uplink


def pilot_update(problem: Problem) -> PyTree:
    """What the model changes by in a first round that nobody keeps.

    Raises:
      UsageError: when it changes by nothing, or by what is not finite.
    """
    state = init_state(
        make_key(0), problem.algorithm, problem.params, problem.num_clients
    )
    step = jax.jit(round_program(problem.algorithm, problem.sample, max_rounds=1))
    state, _ = step(state, problem.data, jnp.int32(1))
    after = problem.algorithm.params(state.server)
    # By value: the model may lie on several devices, and a client has one.
    update = jax.tree.map(
        lambda x, y: jnp.asarray(np.asarray(x) - np.asarray(y)), after, problem.params
    )
    energy = sum(float(jnp.sum(jnp.square(x))) for x in jax.tree.leaves(update))
    if not 0 < energy < float("inf"):
        raise UsageError(
            "--controller: a first round changes the model by nothing, or by what is "
            "not finite: there is no update to measure the uplink's curve on."
        )
    return update
