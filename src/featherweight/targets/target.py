"""Hardware targets: what a device runs, as data in TOML files, and `check`, which holds a model against one.

A target lists, per operator, the forms that it runs (see `featherweight.operators.record`), whether float operators run
beside them, which scales it wants, its arithmetic profile, and constraints. A constraint's text is its documentation
and its message.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from featherweight import operators
from featherweight.errors import FormatError, listed
from featherweight.graph import Graph, Model, ModelLike, Node
from featherweight.graph.numerics import QuantParams
from featherweight.operators import profiles
from featherweight.operators.call import Call, tensors_of
from featherweight.operators.entries import reached
from featherweight.recipes.toml import Table, read_chain, shipped
from featherweight.targets import constraints, files, operand_limits, shape_limits
from featherweight.targets import xnnpack_nchw_obstacles as conditions
from featherweight.targets.constraints import Constraint
from featherweight.targets.form import converts, form_of, plain_form_of
from featherweight.tflite import read
from featherweight.tflite.decode_operator import codings_of, is_decode, with_plain_weights

# The checks that importing these modules registers.
CHECKS = (conditions, operand_limits, shape_limits)


@dataclass(frozen=True)
class Target:
    """What one device runs.

    Attributes:
        profile: the arithmetic profile (the runtime's rounding) that its claims are made for.
        io: the default type of inputs and outputs, ``float32`` or ``int8``.
        is_float_allowed: whether operators may stay float.
        is_per_channel: whether weights may have a scale per channel.
        is_power_of_two: whether every scale must be a power of two.
        is_symmetric: whether every zero point must be 0, but of what its kernels prescribe.
        weight_only: types of stored weights that it turns into float ones, right for a scale per channel too.
        softmax_limit: the number of classes from which on an int8 SOFTMAX can't be run, or None.
        forms: operator → forms that run on it.
        is_complete: whether that is all: what is not there is not run in float or in plain numbers either.
        sparsity: operator → pattern of zeros that its kernels make use of.
        slower_ns: operator → what an element of its output costs in int8 beyond float between two conversions, in
            nanoseconds; operators that are faster in int8 are not there.
        unread: what its files need not hold, of `tflite.lean.UNREAD`.
        packs: type → output channels that its kernels compute together.
        is_ordered: whether operators are put in the order that keeps least memory alive: its runtime takes a file's.
        is_one_entry: whether its runtime runs the first graph only, and what that calls.
        codings: of weights, which its runtime decodes while it runs, of `tflite.codings.CODINGS`.
        unoptimized: operator → how many times as long as in float it takes with int16 activations.
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
    sparsity: Mapping[str, str] = field(default_factory=dict)
    weight_only: tuple[str, ...] = files.STORED
    slower_ns: Mapping[str, float] = field(default_factory=dict[str, float])
    unoptimized: Mapping[str, float] = field(default_factory=dict[str, float])
    is_complete: bool = False
    unread: tuple[str, ...] = ()
    is_ordered: bool = False
    is_one_entry: bool = False
    packs: Mapping[str, int] = field(default_factory=dict[str, int])
    codings: tuple[str, ...] = ()
    is_symmetric: bool = False

    def __repr__(self) -> str:
        return (
            f"Target '{self.name}': {self.description}\n"
            f"  {len(self.forms)} operators in integers, {len(self.constraints)} constraints, profile '{self.profile}'"
        )

    @property
    def has_clusters(self) -> bool:
        """True where it has conditions for clusters (see `featherweight.clusters`)."""
        return any(constraint.check in conditions.CHECKS for constraint in self.constraints)

    @property
    def has_float_kernels(self) -> bool:
        """True for a processor that runs LiteRT's kernels, of floats too, and has their limits."""
        return self.is_float_allowed

    def runs(self, op: str, form: str) -> bool:
        """True if the target runs the operator in that form."""
        if form == "float32" and self.is_float_allowed and not self.is_complete:
            return True
        return form in self.forms.get(op, ())

    def integer_forms(self, op: str) -> tuple[str, ...]:
        """Returns the forms of an operator whose activations are integers that stand for real numbers."""
        return tuple(form for form in self.forms.get(op, ()) if form.partition("*")[0] in files.ACTIVATIONS)


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
    return shipped("target")


def load(target: str | Path | Target) -> Target:
    """Returns a shipped target by name, or one from a TOML file.

    What a file says replaces what the target says that it `extends`, whose path counts from the file's folder:
    operators one by one, other keys whole; constraints add up.

    Raises:
        RecipeError: if there is no such target, or its file is not a target.
    """
    if isinstance(target, Target):
        return target
    tables = read_chain(target, "target", "extends")
    settings: dict[str, Any] = {}
    forms: dict[str, tuple[str, ...]] = {}
    sparsity: dict[str, str] = {}
    times: dict[str, dict[str, float]] = {"slower_ns": {}, "unoptimized": {}}
    limits: list[Constraint] = []
    packs: dict[str, int] = {}
    for table in reversed(tables):
        settings |= files.settings(table)
        forms |= files.forms(table.table("ops"))
        sparsity |= files.sparsity(table.table("sparsity"))
        for key, found in times.items():
            found |= files.times(table.table(key))
        packs |= files.packs(table.table("packs"))
        limits += [constraints.parse(row) for row in table.rows("constraint")]
    merged = Table(settings, tables[0].where, tables[0].remedy)
    merged.get("ops", dict)
    name, description, profile = (merged.get(key, str) for key in files.TEXTS)
    return Target(
        name,
        description,
        profile,
        merged.get("io", str, "float32"),
        merged.get("float", bool, True),
        merged.get("per_channel", bool, True),
        merged.get("power_of_two", bool, False),
        merged.get("softmax_limit", int, None),
        forms,
        tuple(limits),
        sparsity,
        merged.several("weight_only", str) if "weight_only" in merged else files.STORED,
        **times,
        is_complete=merged.get("complete", bool, False),
        unread=merged.several("unread", str) if "unread" in merged else (),
        is_ordered=merged.get("ordered", bool, False),
        is_one_entry=merged.get("one_entry", bool, False),
        packs=packs,
        codings=merged.several("codings", str) if "codings" in merged else (),
        is_symmetric=merged.get("symmetric", bool, False),
    )


def to_json(target: Target) -> str:
    """Returns all that a target says, as JSON."""
    return json.dumps(asdict(target), sort_keys=True)


def from_json(text: str) -> Target:
    """Returns the target of what `to_json` returned.

    >>> from_json(to_json(load("ethos-u55"))) == load("ethos-u55")
    True
    """
    values = json.loads(text)
    values["forms"] = {op: tuple(forms) for op, forms in values["forms"].items()}
    values["constraints"] = tuple(_constraint(row) for row in values["constraints"])
    for key in ("weight_only", "unread", "codings"):
        values[key] = tuple(values.get(key, ()))
    return Target(**values)


def _constraint(row: dict[str, Any]) -> Constraint:
    limits: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in row["limits"].items()
    }
    return Constraint(tuple(row["ops"]), row["check"], row["text"], limits, tuple(row["forms"]))


def is_border(node: Node, graph: Graph) -> bool:
    """True for a conversion at the model's border (or from integers to integers), which `strict` allows."""
    if not converts(node):
        return False
    source, result = graph.tensors[node.inputs[0]], graph.tensors[node.outputs[0]]
    if source.dtype == "float32":
        return source.name in graph.inputs
    return result.dtype != "float32" or result.name in graph.outputs


def check(model: ModelLike, target: str | Path | Target) -> tuple[Violation, ...]:
    """Returns every operator of the model that the target does not run, with the constraint that it breaks.

    Args:
        model: what `load` takes; a file is looked at as it is.
        target: the device, by name, TOML file or value.

    Raises:
        RecipeError: if there is no such target.
        FormatError: if the model can't be read.
    """
    target, model = load(target), read(model)
    decoding = tuple(
        found for graph in model.graphs for node in graph.nodes for found in _check_codings(node, graph, target)
    )
    try:
        model = with_plain_weights(model)
    except FormatError:  # a coding that nobody knows, which is said already
        return decoding
    found = (violation for graph in model.graphs for node in graph.nodes for violation in _check(node, graph, target))
    return (*decoding, *_check_entries(model, target), *found)


def _check_entries(model: Model, target: Target) -> Iterator[Violation]:
    """Yields the graphs that a runtime of one entry loads, but plans no memory for."""
    run = reached(model, [0]) if target.is_one_entry else range(len(model.graphs))
    for index, graph in enumerate(model.graphs):
        if index not in run and graph.nodes:
            keys = listed(repr(one.key) for one in model.signatures if one.graph == index)
            behind = f", behind signature {keys}" if keys else ""
            message = (
                f"Graph '{graph.name or index}'{behind} is not run: target '{target.name}' runs the first one, and may "
                "end where others are in the file. `deploy` leaves them out (signature= runs another)."
            )
            yield Violation(graph.nodes[0].name, graph.nodes[0].op, "one_entry", message)


def _check_codings(node: Node, graph: Graph, target: Target) -> Iterator[Violation]:
    """Yields what a target does not decode."""
    codings = codings_of(node, graph) if is_decode(node) else ()
    for name, coding in zip(node.outputs, codings, strict=False):
        if coding not in target.codings:
            message = (
                f"DECODE '{name}' reads the coding '{coding or 'unknown'}', which target '{target.name}' does not "
                f"decode (allowed: {listed(target.codings) or 'none: weights are plain'})."
            )
            yield Violation(name, "DECODE", "codings", message)


def _check(node: Node, graph: Graph, target: Target) -> Iterator[Violation]:
    form = form_of(node, graph)
    if form is None and target.is_complete and not converts(node):
        form = plain_form_of(node, graph)
    if form is not None:
        yield from _check_form(node, form, target)
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
        if target.is_symmetric and any(quant.zero_point or ()) and not _is_prescribed(quant, graph):
            message = f"{node.op} '{node.name}': the zero point of '{name}' is not 0, as '{target.name}' wants."
            yield Violation(node.name, node.op, "symmetric", message)
    if target.has_float_kernels and (reason := operators.refusal(_call(node, graph, target))):
        message = f"{node.op} '{node.name}' can't be computed by target '{target.name}': {reason}."
        yield Violation(node.name, node.op, "kernels", message)
    for constraint, found in broken(node, graph, target):
        message = f"{node.op} '{node.name}': {found}. {constraint.text} (target '{target.name}')"
        yield Violation(node.name, node.op, constraint.text, message)


def _is_prescribed(quant: QuantParams, graph: Graph) -> bool:
    """True for parameters that the kernels of some operator of a graph prescribe for what they write."""
    pairs = tuple(zip(quant.scale, quant.zero_point or (), strict=False))
    return any(pair in operators.lookup(node.op).fixed_output.values() for node in graph.nodes for pair in pairs)


def broken(node: Node, graph: Graph, target: Target) -> Iterator[tuple[Constraint, str]]:
    """Yields every constraint of the target that a node breaks, with what breaks it."""
    for constraint in target.constraints:
        if (found := constraint.broken(node, graph)) is not None:
            yield constraint, found


def _call(node: Node, graph: Graph, target: Target) -> Call:
    """Returns a node with the tensors that it reads and writes, without values."""
    inputs, outputs = tensors_of(node, graph)
    return Call(node, (None,) * len(inputs), inputs, outputs, profiles.find(target.profile))


def _check_form(node: Node, form: str, target: Target) -> Iterator[Violation]:
    # An operator that reads and writes nothing has no form.
    if target.runs(node.op, form) or (not form and node.op in target.forms):
        return
    allowed = listed(target.forms[node.op]) if node.op in target.forms else "nothing: the operator is unknown to it"
    message = (
        f"{node.op} '{node.name}' computes in {form}, which target '{target.name}' does not run (allowed: {allowed})."
    )
    yield Violation(node.name, node.op, "forms", message)
