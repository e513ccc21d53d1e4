"""Chooses how wide each group of operators must be for every output to keep what is asked of it, at the least cost.

A group can be in integers, quantize its activations on the fly, read its weights as floats, or be float as a whole.
What each of these loses is measured with all other groups in float: noises of different places are nearly independent,
so that their powers add up. From integers everywhere, the steps are taken that bring the most for what they cost, until
the sum keeps within what is asked; then the model is measured, and where the sum has promised too much, more steps
follow. At last, each group goes down as far as measurements allow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

# Times that a choice is measured as a whole and widened.
_MOST_ROUNDS = 8
# Where the sum promised too much, the next one must promise this much less than what was off.
_MARGIN = 0.9

State = Mapping[str, int]
"""Group → its rung: 0 for integers, then wider and wider."""


@dataclass(frozen=True, eq=False)
class Rungs:
    """What one group loses and costs on each rung.

    Attributes:
        noise: (rungs, outputs), noise to signal; 0 on the highest one.
        cost: (rungs,), in whatever units, rising.
    """

    noise: np.ndarray
    cost: np.ndarray


def climbed(ladders: Mapping[str, Rungs], allowed: np.ndarray, measured: Callable[[State], np.ndarray]) -> State:
    """Returns a rung for each group with which the model keeps within the allowed noise, as far as rungs go.

    Args:
        ladders: group → its rungs.
        allowed: noise to signal of each output, (outputs,).
        measured: state → noise to signal of the model in it, (outputs,).

    >>> ladder = Rungs(np.array([[0.3], [0.01], [0.0]]), np.array([0.0, 1.0, 5.0]))
    >>> climbed({"a": ladder, "b": ladder}, np.array([0.1]), lambda state: np.array([0.3 / (1 + sum(state.values()))]))
    {'a': 1, 'b': 1}
    """
    state, bound = dict.fromkeys(ladders, 0), allowed.astype(np.float64).copy()
    for _ in range(_MOST_ROUNDS):
        while (found := _best_step(ladders, state, bound)) is not None:
            state[found[0]] = found[1]
        noise = measured(state)
        is_over = noise > allowed
        if not is_over.any() or all(state[name] == len(each.cost) - 1 for name, each in ladders.items()):
            break
        promised = _total(ladders, state)
        bound = np.where(is_over, np.minimum(bound, promised) * allowed / noise * _MARGIN, bound)
    return _trimmed(ladders, state, allowed, measured)


def _trimmed(
    ladders: Mapping[str, Rungs], state: State, allowed: np.ndarray, measured: Callable[[State], np.ndarray]
) -> State:
    """Returns the state with each group as low as the measured noise allows, what costs most first."""
    for name in sorted(ladders, key=lambda name: -float(ladders[name].cost[state[name]] - ladders[name].cost[0])):
        for rung in range(state[name]):
            lower = {**state, name: rung}
            if (measured(lower) <= allowed).all():
                state = lower
                break
    return state


def _total(ladders: Mapping[str, Rungs], state: State) -> np.ndarray:
    return np.sum([each.noise[state[name]] for name, each in ladders.items()], axis=0)


def _best_step(ladders: Mapping[str, Rungs], state: State, bound: np.ndarray) -> tuple[str, int] | None:
    """Returns the group to widen and its new rung; None where the sum keeps within the bound, or nothing is left."""
    total = _total(ladders, state)
    if (total <= bound).all():
        return None
    best: tuple[float, tuple[str, int]] | None = None
    before = _excess(total, bound)
    for name, each in ladders.items():
        at = state[name]
        for rung in range(at + 1, len(each.cost)):
            won = before - _excess(total - each.noise[at] + each.noise[rung], bound)
            rate = won / max(float(each.cost[rung] - each.cost[at]), 1e-12)
            if won > 0 and (best is None or rate > best[0]):
                best = rate, (name, rung)
    return best[1] if best else None


def _excess(noise: np.ndarray, bound: np.ndarray) -> float:
    """Returns by how much noise exceeds the bound over all outputs, each in units of what it is allowed."""
    return float(np.maximum(noise / np.maximum(bound, 1e-30) - 1, 0.0).sum())


def needed(usual_db: np.ndarray, least_db: float, most_db: float, spare_db: np.ndarray) -> np.ndarray:
    """Returns the noise that outputs are allowed: a little less than they have anyhow, or than what they need at least.

    >>> needed(np.array([3.0, 20.0, 60.0]), 15.0, 30.0, np.ones(3)).round(4).tolist()
    [0.0251, 0.0079, 0.001]
    """
    return 10 ** (-np.minimum(np.maximum(usual_db, least_db) + spare_db, most_db) / 10)
