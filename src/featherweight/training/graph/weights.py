"""What of a graph is trained: finds the weights among its constants, names them after their layers, says what stays.

A float constant is trained where it is a kernel, bias, embedding or slope of an operator, or an operand of ADD, SUB,
MUL or DIV with more than one element (the vectors of norms, position embeddings). It is not trained where it is one
number (an epsilon, ``1 / sqrt(d)``), a mask (an addend of magnitude 10^4 or more), or any other operand (initial states
of loops, values to pad with). `layer_table` lists every float constant with its variable or the reason.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from featherweight.graph import Model, Node, Tensor
from featherweight.operators import lookup
from featherweight.training.graph.source_layers import UNMAPPED, layer_of, plain_name

_MASK = 1e4


@dataclass(frozen=True)
class Entry:
    """One float constant at one node: what trains it, or why nothing does.

    Attributes:
        node: the node's name.
        tensor: the constant's name.
        layer: the source layer as the names tell it, or ``unmapped``.
        variable: path of its variable, ``layer/role``; None where it is not trained. Constants of equal values (not all
            equal to one number) have one variable: they are one weight of the source, written out more than once, or
            two that were drawn from one seed, which the converter has merged already where their shapes are equal.
        reason: why it is not trained, else None.
    """

    node: str
    op: str
    tensor: str
    layer: str
    variable: str | None
    reason: str | None = None


@dataclass(frozen=True, eq=False)
class Use:
    """One float constant at one node: `role` where it is trained, else `reason`; `layer` may be empty."""

    node: Node
    position: int
    tensor: Tensor
    layer: str
    role: str | None
    reason: str | None

    @property
    def group(self) -> str:
        """The layer that its variable is put in."""
        return self.layer or plain_name(self.node.name)


def layer_table(model: Model, callers: Sequence[str]) -> tuple[Entry, ...]:
    """Returns one entry for every float constant at every node that reads it, of all graphs.

    Args:
        model: a float graph.
        callers: for each of its graphs, the layer that calls it (`source_layers.callers`).
    """
    owners: dict[object, tuple[str, str]] = {}
    used: set[str] = set()
    entries: list[Entry] = []
    for use in uses(model, callers):
        layer, variable = use.layer or UNMAPPED, None
        if use.role:
            key = _identity(use.tensor)
            if key not in owners:
                owners[key] = layer, _unused(f"{use.group}/{use.role}", used)
                used.add(owners[key][1])
            layer, variable = owners[key]
        entries.append(Entry(use.node.name, use.node.op, use.tensor.name, layer, variable, use.reason))
    return tuple(entries)


def uses(model: Model, callers: Sequence[str]) -> Iterator[Use]:
    """Yields every float constant at every node that reads it, of all graphs; their callers are as `layer_table`'s."""
    for graph, caller in zip(model.graphs, callers, strict=True):
        for node in graph.nodes:
            for position, name in enumerate(node.inputs):
                if not name or not graph.tensors[name].is_float or not graph.tensors[name].is_constant:
                    continue
                role, reason = _role(node, position, graph.tensors[name])
                # The bias goes where the kernel goes: its own name may tell of a batch norm.
                kernel = (node.inputs[1],) if role == "bias" and graph.tensors[node.inputs[1]].is_constant else ()
                layer = layer_of(graph, node, (*kernel, name), caller)
                yield Use(node, position, graph.tensors[name], layer, role, reason)


def is_uniform(tensor: Tensor) -> bool:
    """True for a constant whose elements are all equal: two of those may be equal by chance."""
    array = tensor.array
    return array is not None and bool(array.size == 0 or (array == array.reshape(-1)[0]).all())


def _unused(path: str, used: set[str]) -> str:
    """Returns the path, with a number behind it where it is taken."""
    return next(name for name in (path, *(f"{path}_{n}" for n in range(1, len(used) + 2))) if name not in used)


def _identity(tensor: Tensor) -> object:
    """Returns what tells one weight from another: its values, or its name where they may be equal by chance."""
    if tensor.data is None or is_uniform(tensor):
        return tensor.name
    return tensor.elements, hashlib.blake2b(tensor.data.tobytes()).digest()


def _role(node: Node, position: int, tensor: Tensor) -> tuple[str | None, str | None]:
    """Returns (role, None) of a constant that is trained, or (None, reason)."""
    role = lookup(node.op).trained.get(position)
    if role is None:
        return None, f"operand {position} of {node.op} is no weight"
    if role not in ("scale", "offset"):
        return role, None
    if tensor.elements <= 1:
        return None, "one number: a constant of the arithmetic"
    array = tensor.array
    if role == "offset" and array is not None and not (np.abs(array) < _MASK).all():
        return None, "a mask"
    return role, None
