"""Operators that call other graphs of the model, and variables, which keep a value from run to run.

Sources: LiteRT while.cc, if.cc, var_handle.cc, read_variable.cc, assign_variable.cc and call_once.cc. Values of
variables are copied as they are, so that integers of one scale can be kept; TFLite Micro does the same
(micro_resource_variable.cc).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from featherweight.graph import Graph, Model, Node
from featherweight.operators.call import Array, Call
from featherweight.operators.record import Op, kernel, register

HANDLE, READ, ASSIGN, CALL_ONCE = "VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "CALL_ONCE"
# Of an assignment's inputs.
VALUE = 1

register(Op("WHILE", "WhileOptions", axes="kept", calls=("cond_subgraph_index", "body_subgraph_index")))
register(Op("IF", "IfOptions", axes="kept", calls=("then_subgraph_index", "else_subgraph_index")))
register(Op("CALL", "CallOptions", calls=("subgraph",)))
register(Op("STABLEHLO_COMPOSITE", "StableHLOCompositeOptions", calls=("decomposition_subgraph_index",)))
register(Op("STABLEHLO_REDUCE_WINDOW", "StablehloReduceWindowOptions", calls=("body_subgraph_index",)))
register(Op(HANDLE, "VarHandleOptions", axes="kept"))
register(Op(READ, "ReadVariableOptions", axes="kept", versions={"int8": 1, "int16": 1}))
register(
    Op(
        ASSIGN,
        "AssignVariableOptions",
        axes="kept",
        activation=VALUE,
        same_scale=(VALUE,),
        versions={"int8": 1, "int16": 1},
    )
)
register(Op(CALL_ONCE, "CallOnceOptions", axes="kept", calls=("init_subgraph_index",)))


@kernel("WHILE", "*")
def while_loop(call: Call) -> tuple[np.ndarray, ...]:
    """Runs the body on its own outputs, beginning with the inputs, while the condition gives true."""
    values = [call.array(position) for position in range(len(call.arrays))]
    while _truth(call, call.run_graph(call.attr_int("cond_subgraph_index"), values)[0]):
        values = call.run_graph(call.attr_int("body_subgraph_index"), values)
    return tuple(values)


@kernel("IF", "*")
def branch(call: Call) -> tuple[np.ndarray, ...]:
    """Runs one of two graphs on all inputs but the first, the condition."""
    name = "then_subgraph_index" if _truth(call, call.array(0)) else "else_subgraph_index"
    values = [call.array(position) for position in range(1, len(call.arrays))]
    return tuple(call.run_graph(call.attr_int(name), values))


def _truth(call: Call, condition: np.ndarray) -> bool:
    if condition.dtype != np.bool_ or condition.size != 1:
        raise call.unsupported(
            f"a condition of type {condition.dtype} and shape {list(condition.shape)} is not supported (supported: one "
            "boolean)"
        )
    return bool(condition.reshape(-1)[0])


@dataclass(frozen=True, eq=False)
class Use:
    """An operator that reads a variable or assigns to it, in a graph of a model, with the tensor of the value."""

    graph: int
    node: Node
    value: str

    @property
    def is_read(self) -> bool:
        """True for one that reads."""
        return self.node.op == READ


def name_of(node: Node) -> str:
    """Returns the name of the variable that a handle stands for, unique in a model.

    >>> name_of(Node(HANDLE, (), ("h",), {"container": b"", "shared_name": b"state"}))
    'state'
    """
    container, name = (
        text.decode("utf-8", "replace") if isinstance(text := node.attrs.get(key) or "", bytes) else str(text)
        for key in ("container", "shared_name")
    )
    return f"{container}/{name}" if container else name


def uses(model: Model) -> dict[str, tuple[Use, ...]]:
    """Returns variable → the operators of all graphs that read it or assign to it.

    Those whose handle comes from elsewhere, as a loop's operand, are under the empty name.
    """
    found: dict[str, list[Use]] = {}
    for index, graph in enumerate(model.graphs):
        handles = {node.name: name_of(node) for node in graph.nodes if node.op == HANDLE}
        for node in graph.nodes:
            if node.op in (READ, ASSIGN):
                value = node.outputs[0] if node.op == READ else node.inputs[VALUE]
                found.setdefault(handles.get(node.inputs[0], ""), []).append(Use(index, node, value))
    return {name: tuple(each) for name, each in found.items()}


def handed_on(model: Model) -> Iterator[Node]:
    """Yields the operators that hand a variable's handle to another graph."""
    for graph in model.graphs:
        for node in graph.nodes:
            if node.op not in (READ, ASSIGN) and any(_is_handle(name, graph) for name in node.inputs):
                yield node


def keeps_state(model: Model) -> bool:
    """True where what a run computes may depend on the runs before, by a variable."""
    return any(node.op == ASSIGN for graph in model.graphs for node in graph.nodes)


def _is_handle(name: str, graph: Graph) -> bool:
    return bool(name) and graph.tensors[name].dtype == "resource"


@kernel(HANDLE, "*")
def handle(call: Call) -> tuple[Array, ...]:
    """Returns the variable's name."""
    return (np.array(name_of(call.node), object),)


@kernel(READ, "*")
def read(call: Call) -> tuple[Array, ...]:
    """Returns what was assigned last."""
    name = str(call.array(0))
    if name not in call.kept:
        raise call.unsupported(f"variable '{name}', to which nothing was assigned yet, is not supported")
    return (call.kept[name],)


@kernel(ASSIGN, "*")
def assign(call: Call) -> tuple[Array, ...]:
    """Keeps a value."""
    call.kept[str(call.array(0))] = call.array(VALUE)
    return ()


@kernel(CALL_ONCE, "*")
def call_once(call: Call) -> tuple[Array, ...]:
    """Runs a graph, which gives variables their first values, unless it has run."""
    index = call.attr_int("init_subgraph_index")
    has_run = f"graph {index} has run"
    if has_run not in call.kept:
        call.run_graph(index, ())
        call.kept[has_run] = np.True_
    return ()
