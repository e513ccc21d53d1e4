"""Limits of devices that go beyond "runs this operator in that form": one small check each, named in target files.

A check says what it found, and None where the operator keeps the limit or has nothing that it measures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from featherweight import operators
from featherweight.errors import RecipeError, listed
from featherweight.graph import Graph, Node, Tensor
from featherweight.recipes.toml import Table, check_known
from featherweight.targets.form import form_of, plain_form_of
from featherweight.tflite.names import OP_CODES

# Numbers, or lists of words, by their names.
Limits = Mapping[str, Any]
CheckFunction = Callable[[Node, Graph, Limits], str | None]


ALLOWED, REFUSED = "allowed", "refused"  # limits that are lists


@dataclass(frozen=True)
class Constraint:
    """One limit of a target: the check by its registered name, its numbers, and the text that explains it.

    Attributes:
        ops, forms: what it holds for; empty: for all.
    """

    ops: tuple[str, ...]
    check: str
    text: str
    limits: Limits = field(default_factory=dict[str, Any])
    forms: tuple[str, ...] = ()

    @property
    def reads_values(self) -> bool:
        """True where it reads the values of weights, and not only what is known of tensors beforehand."""
        return _CHECKS[self.check].reads_values

    def broken(self, node: Node, graph: Graph) -> str | None:
        """Returns what breaks the constraint in one operator, or None."""
        if self.ops and node.op not in self.ops:
            return None
        if self.forms and (form_of(node, graph) or plain_form_of(node, graph)) not in self.forms:
            return None
        return _CHECKS[self.check].function(node, graph, self.limits)


@dataclass(frozen=True)
class _Check:
    """A check with the limits that it needs and those that it may have."""

    function: CheckFunction
    required: tuple[str, ...]
    optional: tuple[str, ...]
    reads_values: bool


_CHECKS: dict[str, _Check] = {}


def parse(row: Table) -> Constraint:
    """Returns the constraint that a ``[[constraint]]`` of a target file holds.

    Raises:
        RecipeError: if its check or an operator is unknown, or a limit is missing or no whole number.

    >>> parse(Table({"check": "stride", "max": 3, "text": "Strides must be 1 to 3."}, "here", "")).limits
    {'max': 3}
    """
    name, text = row.get("check", str), row.get("text", str)
    if name not in _CHECKS:
        raise RecipeError(f"{row.where}: unknown check '{name}' (allowed: {listed(sorted(_CHECKS))}). {row.remedy}")
    check = _CHECKS[name]
    limits = (*check.required, *check.optional)
    row.check_keys(("ops", "forms", "check", "text", *limits))
    if check.optional and not any(limit in row for limit in limits):
        raise row.error(limits[0], f"a whole number; {name} wants at least one of {listed(limits)}")
    names, forms = (row.several(key, str) if key in row else () for key in ("ops", "forms"))
    for op in names:
        check_known(op, OP_CODES, "operator", row.where)
    given = [key for key in limits if key in row or key in check.required]
    found = {key: row.several(key, str) if key in (ALLOWED, REFUSED) else row.count(key) for key in given}
    return Constraint(names, name, text, found, forms)


def constraint_check(
    *required: str, optional: tuple[str, ...] = (), reads_values: bool = False
) -> Callable[[CheckFunction], CheckFunction]:
    """Registers a check under its function's name, with the limits that a target file must and may give it.

    One that reads the values of weights can't be asked before they are integers.
    """

    def register(function: CheckFunction) -> CheckFunction:
        name = function.__name__.removeprefix("_check_")
        if name in _CHECKS:
            raise ValueError(f"constraint check {name} is registered twice")
        _CHECKS[name] = _Check(function, required, optional, reads_values)
        return function

    return register


def weight_of(node: Node, graph: Graph) -> Tensor | None:
    """Returns the weight of an operator that has one."""
    position = operators.lookup(node.op).weight
    return None if position is None or position >= len(node.inputs) else graph.tensors[node.inputs[position]]


@constraint_check()
def _check_static_shapes(node: Node, graph: Graph, limits: Limits) -> str | None:
    for name in (*node.inputs, *node.outputs):
        signature = graph.tensors[name].shape_signature if name else None
        if signature and any(size < 0 for size in signature[1:]):
            return f"'{name}' has the free shape {list(signature)}"
    return None


@constraint_check("max", reads_values=True)
def _check_weight_sum(node: Node, graph: Graph, limits: Limits) -> str | None:
    weight = weight_of(node, graph)
    values = weight.array if weight is not None else None
    if values is None or values.dtype != np.int8:
        return None
    axis = operators.lookup(node.op).axis or 0
    axes = tuple(d for d in range(values.ndim) if d != axis)
    largest = int(np.abs(values.astype(np.int64)).sum(axis=axes).max())
    return f"its absolute weights add up to {largest}" if largest > limits["max"] else None


@constraint_check()
def _check_constant_weight(node: Node, graph: Graph, limits: Limits) -> str | None:
    weight = weight_of(node, graph)
    return None if weight is None or weight.is_constant else f"its weight '{weight.name}' is computed"


@constraint_check("max")
def _check_classes(node: Node, graph: Graph, limits: Limits) -> str | None:
    tensor = graph.tensors[node.inputs[0]] if node.inputs and node.inputs[0] else None
    if tensor is not None and tensor.dtype == "int8" and tensor.shape and tensor.shape[-1] > limits["max"]:
        return f"it has {tensor.shape[-1]} classes in int8"
    return None


@constraint_check(optional=("min", "max"))
def _check_rank(node: Node, graph: Graph, limits: Limits) -> str | None:
    indices = operators.lookup(node.op).indices
    data = (name for position, name in enumerate(node.inputs) if name and position not in indices)
    for name in (*data, *node.outputs):
        rank = len(graph.tensors[name].shape)
        if not limits.get("min", 0) <= rank <= limits.get("max", rank):
            return f"'{name}' has {rank} dimensions"
    return None
