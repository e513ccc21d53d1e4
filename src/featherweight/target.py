"""Hardware targets: what a device runs, as data in TOML files, and `check`, which holds a model against one.

A target lists, per operator, the forms that it runs (see `featherweight.ops.registry`), whether float operators run
beside them, which scales it wants, its arithmetic profile, and constraints. A constraint's text is its documentation
and its message.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from featherweight import ops
from featherweight.errors import RecipeError, listed
from featherweight.graph import Graph, Model, Node
from featherweight.numerics import INTEGER_BITS
from featherweight.ops.quantize import DEQUANTIZE, QUANTIZE

_KEYS = {
    "name",
    "description",
    "profile",
    "io",
    "float",
    "per_channel",
    "power_of_two",
    "softmax_limit",
    "ops",
    "constraint",
}
_CONVERSIONS = (QUANTIZE, DEQUANTIZE)


@dataclass(frozen=True)
class Constraint:
    """One limit of a target: the check by its registered name, its numbers, and the text that explains it."""

    ops: tuple[str, ...]
    check: str
    text: str
    limits: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True)
class Target:
    """What one device runs.

    Attributes:
        profile: the arithmetic profile (the runtime's rounding) that its claims are made for.
        io: the default type of inputs and outputs, ``float32`` or ``int8``.
        is_float_allowed: whether operators may stay float.
        is_per_channel: whether weights may have a scale per channel.
        is_power_of_two: whether every scale must be a power of two.
        softmax_limit: the number of classes from which on an int8 SOFTMAX can't be run, or None.
        forms: operator → forms that run on it.
    """

    name: str
    description: str
    profile: str
    io: str
    is_float_allowed: bool
    is_per_channel: bool
    is_power_of_two: bool
    softmax_limit: int | None
    forms: Mapping[str, tuple[str, ...]]
    constraints: tuple[Constraint, ...]

    def runs(self, op: str, form: str) -> bool:
        """True if the target runs the operator in that form."""
        return form in self.forms.get(op, ())


@dataclass(frozen=True)
class Violation:
    """One operator that breaks one constraint of a target."""

    node: str
    op: str
    constraint: str
    message: str


def available() -> tuple[str, ...]:
    """Returns the names of the shipped targets.

    >>> "litert" in available()
    True
    """
    folder = resources.files("featherweight") / "targets"
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")))


def load(target: str | Path | Target) -> Target:
    """Returns a shipped target by name, or one from a TOML file.

    Raises:
        RecipeError: if there is no such target, or its file is not a target.
    """
    if isinstance(target, Target):
        return target
    return _parse(_content(str(target)), str(target))


def _content(name: str) -> dict[str, Any]:
    """Reads a target's table, with what it extends merged in."""
    try:
        if name in available():
            text = (resources.files("featherweight") / "targets" / f"{name}.toml").read_text("utf-8")
        elif name.endswith(".toml"):
            text = Path(name).read_text("utf-8")
        else:
            raise RecipeError(
                f"Unknown target '{name}'. Choose one of {listed(available(), 20)}, or give the path of a .toml file."
            )
        table = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"Target '{name}' can't be read: {error}. Compare it with a shipped target.") from error
    if "extends" not in table:
        return table
    base = _content(table.pop("extends"))
    merged = base | table
    merged["ops"] = base.get("ops", {}) | table.get("ops", {})
    merged["constraint"] = base.get("constraint", []) + table.get("constraint", [])
    return merged


def _parse(table: dict[str, Any], name: str) -> Target:
    if unknown := sorted(set(table) - _KEYS):
        raise RecipeError(f"Target '{name}': unknown key {listed(unknown)} (allowed: {listed(sorted(_KEYS), 20)}).")
    try:
        constraints = tuple(
            Constraint(tuple(row.pop("ops", ())), row.pop("check"), row.pop("text"), row)
            for row in (dict(row) for row in table.get("constraint", []))
        )
        forms = {op: tuple(forms) for op, forms in table["ops"].items()}
        target = Target(
            table["name"],
            table["description"],
            table["profile"],
            table.get("io", "float32"),
            table.get("float", True),
            table.get("per_channel", True),
            table.get("power_of_two", False),
            table.get("softmax_limit"),
            forms,
            constraints,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise RecipeError(
            f"Target '{name}' lacks or misuses the key {error}. Compare it with a shipped target."
        ) from error
    for constraint in constraints:
        if constraint.check not in _CHECKS:
            raise RecipeError(
                f"Target '{name}': unknown check '{constraint.check}' (allowed: {listed(sorted(_CHECKS), 20)})."
            )
    return target


def form_of(node: Node, graph: Graph) -> str | None:
    """Returns the form in which a node of a file computes, ``"float32"`` for float, None where it touches neither."""
    op = ops.lookup(node.op)
    weight = None if op.weight is None or op.weight >= len(node.inputs) else node.inputs[op.weight]
    dtypes = [graph.tensors[name].dtype for name in (*node.inputs, *node.outputs) if name and name != weight]
    quantized = [
        graph.tensors[name].dtype
        for name in (*node.inputs, *node.outputs)
        if name
        and name != weight
        and graph.tensors[name].quant
        and graph.tensors[name].dtype in {"int8", "int16", "uint8"}
    ]
    if converts(node):
        return None
    if "float32" in dtypes or "float16" in dtypes:
        if weight and graph.tensors[weight].dtype in INTEGER_BITS:
            return f"float32*{graph.tensors[weight].dtype}"
        return "float32"
    if not quantized:
        return None
    return f"{quantized[0]}*{graph.tensors[weight].dtype}" if weight else quantized[0]


def converts(node: Node) -> bool:
    """True for QUANTIZE and DEQUANTIZE."""
    return node.op in _CONVERSIONS


def is_border(node: Node, graph: Graph) -> bool:
    """True for a conversion at the model's border (or from integers to integers), which `strict` allows."""
    if not converts(node):
        return False
    source, result = graph.tensors[node.inputs[0]], graph.tensors[node.outputs[0]]
    if source.dtype == "float32":
        return source.name in graph.inputs
    return result.dtype != "float32" or result.name in graph.outputs


def check(model: Model, target: str | Path | Target) -> tuple[Violation, ...]:
    """Returns every operator of the model that the target does not run, with the constraint that it breaks."""
    target = load(target)
    return tuple(
        violation for graph in model.graphs for node in graph.nodes for violation in _check(node, graph, target)
    )


def _check(node: Node, graph: Graph, target: Target) -> Iterator[Violation]:
    form = form_of(node, graph)
    if form is not None:
        yield from _check_form(node, form, target)
    elif not converts(node) and node.op not in target.forms and not target.is_float_allowed:
        yield Violation(
            node.name, node.op, "operators", f"{node.op} '{node.name}' is not run by target '{target.name}'."
        )
    for name in (*node.inputs, *node.outputs):
        quant = graph.tensors[name].quant if name else None
        if quant is None:
            continue
        if quant.is_per_channel and len(quant.scale) > 1 and not target.is_per_channel:
            message = f"{node.op} '{node.name}': '{name}' has a scale per channel; target '{target.name}' wants one."
            yield Violation(node.name, node.op, "per_channel", message)
        if target.is_power_of_two and any(float(s) != 2.0 ** round(np.log2(s)) for s in quant.scale):
            message = f"{node.op} '{node.name}': the scale of '{name}' is no power of two, which '{target.name}' wants."
            yield Violation(node.name, node.op, "power_of_two", message)
    for constraint in target.constraints:
        if constraint.ops and node.op not in constraint.ops:
            continue
        found = _CHECKS[constraint.check](node, graph, constraint.limits)
        if found:
            message = f"{node.op} '{node.name}': {found}. {constraint.text} (target '{target.name}')"
            yield Violation(node.name, node.op, constraint.text, message)


def _check_form(node: Node, form: str, target: Target) -> Iterator[Violation]:
    if target.runs(node.op, form) or (form == "float32" and target.is_float_allowed):
        return
    allowed = listed(target.forms[node.op]) if node.op in target.forms else "nothing: the operator is unknown to it"
    message = (
        f"{node.op} '{node.name}' computes in {form}, which target '{target.name}' does not run (allowed: {allowed})."
    )
    yield Violation(node.name, node.op, "forms", message)


Check = Callable[[Node, Graph, Mapping[str, int]], str | None]
_CHECKS: dict[str, Check] = {}


def _constraint_check(function: Check) -> Check:
    name = function.__name__.removeprefix("_check_")
    if name in _CHECKS:
        raise ValueError(f"constraint check {name} is registered twice")
    _CHECKS[name] = function
    return function


@_constraint_check
def _check_static_shapes(node: Node, graph: Graph, limits: Mapping[str, int]) -> str | None:
    for name in (*node.inputs, *node.outputs):
        signature = graph.tensors[name].shape_signature if name else None
        if signature and any(size < 0 for size in signature[1:]):
            return f"'{name}' has the free shape {list(signature)}"
    return None


@_constraint_check
def _check_kernel(node: Node, graph: Graph, limits: Mapping[str, int]) -> str | None:
    attrs = node.attrs
    if "filter_height" in attrs:
        height, width = int(attrs["filter_height"]), int(attrs["filter_width"])
    else:
        _, kh, kw, _ = graph.tensors[node.inputs[1]].shape
        height = (kh - 1) * int(attrs.get("dilation_h_factor", 1)) + 1
        width = (kw - 1) * int(attrs.get("dilation_w_factor", 1)) + 1
    if attrs["padding"] == "SAME" and max(height, width) > limits.get("max_same", height + width):
        return f"its kernel is {height}×{width} with SAME padding"
    is_large = height > limits.get("max_height", height) or height * width > limits.get("max_product", height * width)
    return f"its kernel is {height}×{width}" if is_large else None


@_constraint_check
def _check_stride(node: Node, graph: Graph, limits: Mapping[str, int]) -> str | None:
    height, width = int(node.attrs["stride_h"]), int(node.attrs["stride_w"])
    return f"its stride is {height}×{width}" if max(height, width) > limits["max"] else None


@_constraint_check
def _check_weight_sum(node: Node, graph: Graph, limits: Mapping[str, int]) -> str | None:
    op = ops.lookup(node.op)
    weight = graph.tensors[node.inputs[op.weight or 0]]
    values = weight.array
    if values is None or values.dtype != np.int8:
        return None
    axes = tuple(d for d in range(values.ndim) if d != (op.axis or 0))
    largest = int(np.abs(values.astype(np.int64)).sum(axis=axes).max())
    return f"its absolute weights add up to {largest}" if largest > limits["max"] else None


@_constraint_check
def _check_constant_weight(node: Node, graph: Graph, limits: Mapping[str, int]) -> str | None:
    name = node.inputs[ops.lookup(node.op).weight or 0]
    return None if graph.tensors[name].is_constant else f"its weight '{name}' is computed"


@_constraint_check
def _check_classes(node: Node, graph: Graph, limits: Mapping[str, int]) -> str | None:
    tensor = graph.tensors[node.inputs[0]]
    if tensor.dtype == "int8" and tensor.shape and tensor.shape[-1] > limits["max"]:
        return f"it has {tensor.shape[-1]} classes in int8"
    return None


@_constraint_check
def _check_rank(node: Node, graph: Graph, limits: Mapping[str, int]) -> str | None:
    for name in (*node.inputs, *node.outputs):
        if name and len(graph.tensors[name].shape) > limits["max"]:
            return f"'{name}' has {len(graph.tensors[name].shape)} dimensions"
    return None
