"""Limits of devices that go beyond "runs this operator in that form": one small check each, named in target files.

A check says what it found, and None where the operator keeps the limit or has nothing that it measures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from featherweight import operators
from featherweight.errors import RecipeError, listed
from featherweight.graph import Graph, Node, Tensor
from featherweight.recipes.toml import Table, check_known
from featherweight.tflite.names import OP_CODES

CheckFunction = Callable[[Node, Graph, Mapping[str, int]], str | None]


@dataclass(frozen=True)
class Constraint:
    """One limit of a target: the check by its registered name, its numbers, and the text that explains it."""

    ops: tuple[str, ...]
    check: str
    text: str
    limits: Mapping[str, int] = field(default_factory=dict[str, int])

    def broken(self, node: Node, graph: Graph) -> str | None:
        """Returns what breaks the constraint in one operator, or None."""
        if self.ops and node.op not in self.ops:
            return None
        return _CHECKS[self.check].function(node, graph, self.limits)


@dataclass(frozen=True)
class _Check:
    """A check with the limits that it needs and those that it may have."""

    function: CheckFunction
    required: tuple[str, ...]
    optional: tuple[str, ...]


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
    row.check_keys(("ops", "check", "text", *limits))
    if check.optional and not any(limit in row for limit in limits):
        raise row.error(limits[0], f"a whole number; {name} wants at least one of {listed(limits)}")
    names = row.several("ops", str) if "ops" in row else ()
    for op in names:
        check_known(op, OP_CODES, "operator", row.where)
    return Constraint(names, name, text, {key: row.count(key) for key in limits if key in row or key in check.required})


def constraint_check(*required: str, optional: tuple[str, ...] = ()) -> Callable[[CheckFunction], CheckFunction]:
    """Registers a check under its function's name, with the limits that a target file must and may give it."""

    def register(function: CheckFunction) -> CheckFunction:
        name = function.__name__.removeprefix("_check_")
        if name in _CHECKS:
            raise ValueError(f"constraint check {name} is registered twice")
        _CHECKS[name] = _Check(function, required, optional)
        return function

    return register


def _weight(node: Node, graph: Graph) -> Tensor | None:
    position = operators.lookup(node.op).weight
    return None if position is None or position >= len(node.inputs) else graph.tensors[node.inputs[position]]


@constraint_check()
def _check_static_shapes(node: Node, graph: Graph, limits: Mapping[str, int]) -> str | None:
    for name in (*node.inputs, *node.outputs):
        signature = graph.tensors[name].shape_signature if name else None
        if signature and any(size < 0 for size in signature[1:]):
            return f"'{name}' has the free shape {list(signature)}"
    return None


@constraint_check(optional=("max_same", "max_height", "max_product"))
def _check_kernel(node: Node, graph: Graph, limits: Mapping[str, int]) -> str | None:
    attrs, weight = node.attrs, _weight(node, graph)
    if "filter_height" in attrs:
        height, width = int(attrs["filter_height"]), int(attrs["filter_width"])
    elif weight is not None and len(weight.shape) == 4:
        _, kh, kw, _ = weight.shape
        height = (kh - 1) * int(attrs.get("dilation_h_factor", 1)) + 1
        width = (kw - 1) * int(attrs.get("dilation_w_factor", 1)) + 1
    else:
        return None
    if attrs["padding"] == "SAME" and max(height, width) > limits.get("max_same", height + width):
        return f"its kernel is {height}×{width} with SAME padding"
    is_large = height > limits.get("max_height", height) or height * width > limits.get("max_product", height * width)
    return f"its kernel is {height}×{width}" if is_large else None


@constraint_check("max")
def _check_stride(node: Node, graph: Graph, limits: Mapping[str, int]) -> str | None:
    if "stride_h" not in node.attrs:
        return None
    height, width = int(node.attrs["stride_h"]), int(node.attrs["stride_w"])
    return f"its stride is {height}×{width}" if max(height, width) > limits["max"] else None


@constraint_check("max")
def _check_weight_sum(node: Node, graph: Graph, limits: Mapping[str, int]) -> str | None:
    weight = _weight(node, graph)
    values = weight.array if weight is not None else None
    if values is None or values.dtype != np.int8:
        return None
    axis = operators.lookup(node.op).axis or 0
    axes = tuple(d for d in range(values.ndim) if d != axis)
    largest = int(np.abs(values.astype(np.int64)).sum(axis=axes).max())
    return f"its absolute weights add up to {largest}" if largest > limits["max"] else None


@constraint_check()
def _check_constant_weight(node: Node, graph: Graph, limits: Mapping[str, int]) -> str | None:
    weight = _weight(node, graph)
    return None if weight is None or weight.is_constant else f"its weight '{weight.name}' is computed"


@constraint_check("max")
def _check_classes(node: Node, graph: Graph, limits: Mapping[str, int]) -> str | None:
    tensor = graph.tensors[node.inputs[0]] if node.inputs and node.inputs[0] else None
    if tensor is not None and tensor.dtype == "int8" and tensor.shape and tensor.shape[-1] > limits["max"]:
        return f"it has {tensor.shape[-1]} classes in int8"
    return None


@constraint_check("max")
def _check_rank(node: Node, graph: Graph, limits: Mapping[str, int]) -> str | None:
    for name in (*node.inputs, *node.outputs):
        if name and len(graph.tensors[name].shape) > limits["max"]:
            return f"'{name}' has {len(graph.tensors[name].shape)} dimensions"
    return None
