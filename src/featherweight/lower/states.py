"""State that a source keeps between calls: it is lowered as inputs and outputs, which become variables of the file.

The graph reads every variable when it begins and assigns to it when it ends. A graph of its own assigns the initial
values: it runs once, before the first run, and whenever a caller runs the signature ``reset``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from featherweight.errors import FeatherweightError, LoweringError
from featherweight.graph import Graph, Model, Node, Signature, Tensor, constant
from featherweight.graph.editor import Editor
from featherweight.lower import verify
from featherweight.lower.source import Input
from featherweight.operators.families.control import ASSIGN, CALL_ONCE, HANDLE, READ
from featherweight.runtime.litert import RESET, Session

_STEPS = 3


@dataclass(frozen=True, eq=False)
class State:
    """A value that is kept: its name, and what it is before the first call."""

    name: str
    initial: np.ndarray

    @property
    def as_input(self) -> Input:
        """The value before a call."""
        return Input(self.name, self.initial.shape, self.initial.dtype.name)

    @property
    def as_output(self) -> str:
        """The name of the value behind a call."""
        return f"{self.name}/next"


def with_variables(model: Model, states: Sequence[State]) -> Model:
    """Returns a lowered model whose last inputs and outputs are the states with variables in their place."""
    graph, signature, count = model.main, model.signatures[0], len(states)
    taken = set(model.tensors)
    edit = Editor(graph, taken)
    start = Editor(Graph(RESET, (), (), (), {}), taken)
    edit.node(CALL_ONCE, (), (), init_subgraph_index=len(model.graphs))
    assigned: list[tuple[str, str]] = []
    for state, before, after in zip(states, graph.inputs[-count:], graph.outputs[-count:], strict=True):
        named = {"container": b"", "shared_name": state.name.encode()}
        handle, first = (e.add(Tensor(f"{state.name}/handle", (1,), "resource")) for e in (edit, start))
        edit.node(HANDLE, (), (handle,), **named)
        edit.node(READ, (handle,), (before,))
        assigned.append((handle, after))
        start.node(HANDLE, (), (first,), **named)
        start.node(ASSIGN, (first, start.add(constant(f"{state.name}/initial", state.initial))), ())
    edit.nodes += graph.nodes
    edit.nodes += [Node(ASSIGN, pair, ()) for pair in assigned]
    main = replace(edit.result(), inputs=graph.inputs[:-count], outputs=graph.outputs[:-count])
    called = replace(signature, inputs=signature.inputs[:-count], outputs=signature.outputs[:-count])
    reset = Signature(RESET, (), (), len(model.graphs))
    return replace(model, graphs=(main, *model.graphs[1:], start.result()), signatures=(called, reset))


def check_steps(
    model: Model, source: verify.Run, inputs: Sequence[np.ndarray], states: Sequence[State], title: str, way_out: str
) -> None:
    """Compares a model that keeps its state with its source over steps, and once more from the start.

    Raises:
        LoweringError: if it does not run, or differs from its source.
    """
    try:
        with Session(model) as session:
            for _ in range(2):
                kept = [state.initial for state in states]
                for _ in range(_STEPS):
                    expected = source([*inputs, *kept], 1)
                    got = verify.outputs_of(session, inputs)
                    names = list(session.outputs)
                    found = verify.differences(names, expected[: len(names)], got, verify.longest_sum(model))
                    verify.require_equal(found, f"{title}, which keeps state,", way_out)
                    kept = expected[len(names) :]
                session.reset()
    except LoweringError:
        raise
    except FeatherweightError as error:
        raise LoweringError(f"The lowered {title} does not run: {error}. {way_out}") from error
