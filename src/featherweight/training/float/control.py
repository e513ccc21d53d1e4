"""Loops and branches whose course is known when the model is traced."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np

from featherweight.operators.call import Array, is_static
from featherweight.training.graph.registry import Step, function, ops

_MOST_ROUNDS = 65536
# Rounds that are written out one behind the other where the backend compiles loops well; elsewhere all are.
_WRITTEN_OUT = 8


@function("WHILE")
def while_loop(step: Step) -> tuple[Array, ...]:
    """A loop whose count does not depend on data; all backends differentiate it."""
    body = step.attr_int("body_subgraph_index")
    values = [step.array(position) for position in range(len(step.arrays))]
    rounds = _rounds(step, values)
    if len(rounds) - 1 > _WRITTEN_OUT and keras.backend.backend() == "jax":
        return _scanned(step, values, rounds)
    for _ in rounds[1:]:
        values = list(step.run_graph(body, values))
    return tuple(values)


def _rounds(step: Step, values: Sequence[Array]) -> list[list[np.ndarray | None]]:
    """Returns the static values at the begin of every round, and after the last one; None for all others."""
    condition, body = step.attr_int("cond_subgraph_index"), step.attr_int("body_subgraph_index")
    rounds = [[value if is_static(value) else None for value in values]]
    while len(rounds) <= _MOST_ROUNDS:
        goes_on = step.known(condition, rounds[-1])[0]
        if goes_on is None:
            raise step.unsupported("a loop whose count depends on data is not supported")
        if not goes_on.all():
            return rounds
        rounds.append(step.known(body, rounds[-1]))
    raise step.unsupported(f"a loop of more than {_MOST_ROUNDS} rounds is not supported")


def _scanned(step: Step, values: Sequence[Array], rounds: list[list[np.ndarray | None]]) -> tuple[Array, ...]:
    """Returns what the loop gives; what is static in every round is read from tables, all else is carried."""
    body = step.attr_int("body_subgraph_index")
    columns: dict[int, np.ndarray] = {}
    for at in range(len(values)):
        known = [value for given in rounds if (value := given[at]) is not None]
        if len(known) == len(rounds):
            columns[at] = np.stack(known)
    carried = [at for at in range(len(values)) if at not in columns]

    def following(carry: list[Array], given: dict[str, Array]) -> tuple[list[Array], None]:
        state = dict(zip(carried, carry, strict=True))
        found = step.run_graph(body, [state[at] if at in state else given[str(at)] for at in range(len(values))])
        return [ops.convert_to_tensor(found[at]) for at in carried], None

    inputs = {str(at): ops.convert_to_tensor(column[:-1]) for at, column in columns.items()}
    last, _ = ops.scan(following, [ops.convert_to_tensor(values[at]) for at in carried], inputs)
    state = dict(zip(carried, last, strict=True))
    return tuple(state[at] if at in state else columns[at][-1] for at in range(len(values)))


@function("IF")
def branch(step: Step) -> tuple[Array, ...]:
    """One of two graphs, by a condition that does not depend on data."""
    name = "then" if step.static(0).all() else "else"
    return tuple(step.run_graph(step.attr_int(f"{name}_subgraph_index"), list(step.arrays[1:])))
