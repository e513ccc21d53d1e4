"""The plan: every decision about one graph, as data that one can read, compare, edit and hand back."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from featherweight.arguments import shown
from featherweight.errors import RecipeError, listed
from featherweight.graph import Model, present_names
from featherweight.graph.numerics import INTEGER_BITS, QuantParams, integer_range
from featherweight.ptq.forms.nodes import touches_float
from featherweight.recipes.toml import Table
from featherweight.tflite import write_atomically

FORMAT = 1
FORMS = (
    *("int8", "int16", "int8*int8", "int8*int4", "int16*int8", "int16*int4", "float32*int8", "float32*int4"),
    *("float32+int8", "float32+int4", "float32+float16"),
)
_REMEDY = "Write one with --plan-out, or plan.save(path)."
_LONGEST_SHOWN = 100
_EDGE = re.compile(r".*:[0-9]+", re.DOTALL)
_FLOAT32 = np.finfo(np.float32)
# Types of integer inputs and outputs.
INTEGER_BORDERS = ("int8", "uint8")


@dataclass(frozen=True, repr=False)
class Plan:
    """What becomes of every operator and tensor of one graph.

    A *form* is ``"activation"`` or ``"activation*weight"``: ``"int8*int8"`` computes in integers, ``"float32*int8"``
    lets the kernel quantize activations on the fly, ``"float32+int8"`` stores integers and computes in float.

    Attributes:
        profile: arithmetic profile that the target rounds in.
        io: ``float32`` for float inputs and outputs, ``int8`` for integer ones, ``uint8`` for int8 ones moved by 128.
        forms: operator → form. Operators in neither `forms`, `kept_float` nor `dropped` handle no real numbers.
        params: tensor → its parameters once it is integers; biases follow from input and weight.
        edges: ``"operator:position"`` → parameters for that input alone, where they differ from the tensor's own.
        kept_float: operator → why it stays float.
        dropped: operator → why it is left out.
        notes: what else the user should know: fallbacks, widened scales.
    """

    recipe: str
    target: str
    profile: str
    io: str
    forms: Mapping[str, str]
    params: Mapping[str, QuantParams]
    edges: Mapping[str, QuantParams] = field(default_factory=dict[str, QuantParams])
    kept_float: Mapping[str, str] = field(default_factory=dict[str, str])
    dropped: Mapping[str, str] = field(default_factory=dict[str, str])
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        forms = Counter(self.forms.values())
        reasons = Counter(reason for reason in self.kept_float.values())
        lines = [
            f"Plan of recipe '{self.recipe}' for target '{self.target}', profile '{self.profile}', io {self.io}",
            f"  operators   {listed((f'{count} {form}' for form, count in forms.most_common()), 6) or 'none planned'}",
            f"  kept float  {len(self.kept_float)}" + (f": {_shortened(reasons)}" if reasons else ""),
            f"  left out    {len(self.dropped)}",
            f"  parameters  of {len(self.params)} tensors and {len(self.edges)} inputs",
            f"  notes       {len(self.notes)}" + (f": {_shortened(self.notes)}" if self.notes else ""),
        ]
        return "\n".join(lines)

    def to_json(self) -> str:
        """Returns the plan as JSON text; float32 scales survive exactly."""
        table: dict[str, Any] = {"format": FORMAT} | asdict(self)
        for section in ("params", "edges"):
            table[section] = {name: _params_to_table(params) for name, params in getattr(self, section).items()}
        return json.dumps(table, indent=1) + "\n"

    def save(self, path: str | Path) -> None:
        """Writes the plan as JSON, atomically."""
        write_atomically(path, [self.to_json().encode()])


def _shortened(texts: Iterable[str]) -> str:
    """Returns the first of some texts on one line, with how many follow."""
    first, *others = (" ".join(text.split()) for text in texts)
    said = first if len(first) <= _LONGEST_SHOWN else f"{first[:_LONGEST_SHOWN]}…"
    return said + (f" (and {len(others)} more)" if others else "")


def edge(node: str, position: int) -> str:
    """Returns the key of one input of one operator in `Plan.edges`."""
    return f"{node}:{position}"


def from_json(text: str, where: str = "the plan") -> Plan:
    """Returns the plan that JSON text holds.

    Raises:
        RecipeError: if it is no plan, of another format version, or holds impossible parameters.
    """
    try:
        content = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise RecipeError(f"{where} is not a plan: {error}. {_REMEDY}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{where} is not a plan: it is no table but {str(content)[:80]}. {_REMEDY}")
    table = Table(content, f"{where} is not a plan: it", _REMEDY)
    version = table.get("format", int)
    if version != FORMAT:
        raise RecipeError(f"{where}: plan format {version} can't be read (allowed: {FORMAT}). Plan the model again.")
    if unknown := sorted(set(content) - {"format"} - {f.name for f in fields(Plan)}):
        raise RecipeError(f"{where}: unknown key {listed(unknown)}. Compare it with a written plan.")
    forms, params, edges, kept_float, dropped = (
        Table(table.get(key, dict), f"{where} is not a plan: '{key}'", _REMEDY)
        for key in ("forms", "params", "edges", "kept_float", "dropped")
    )
    for key in edges.values:
        if not _EDGE.fullmatch(key):
            raise RecipeError(f"{where}: the edge '{key}' has no position (allowed: operator:position). Add it.")
    return Plan(
        table.get("recipe", str),
        table.get("target", str),
        table.get("profile", str),
        table.choice("io", ("float32", *INTEGER_BORDERS)),
        {name: forms.choice(name, FORMS) for name in forms.values},
        {name: _params(params.get(name, dict), name, where) for name in params.values},
        {name: _params(edges.get(name, dict), name, where) for name in edges.values},
        {name: kept_float.get(name, str) for name in kept_float.values},
        {name: dropped.get(name, str) for name in dropped.values},
        table.several("notes", str),
    )


def load(path: str | Path) -> Plan:
    """Reads a plan from a JSON file.

    Raises:
        RecipeError: if the file can't be read or holds no plan.
    """
    if not isinstance(path, (str, Path)):
        raise RecipeError(f"The plan is {shown(path)} (allowed: a Plan, or the path of its JSON file). {_REMEDY}")
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, or a zero byte in the path
        raise RecipeError(f"Plan '{path}' can't be read: {error}. {_REMEDY}") from error
    return from_json(text, f"Plan '{path}'")


def _params_to_table(params: QuantParams) -> dict[str, Any]:
    return {key: value for key, value in asdict(params).items() if value is not None}


def _params(values: dict[str, Any], name: str, where: str) -> QuantParams:
    row = Table(values, f"{where} is not a plan: '{name}'", _REMEDY)
    row.check_keys([f.name for f in fields(QuantParams)])
    axis = row.get("axis", int, None)
    if axis is not None and axis < 0:
        raise row.error("axis", "a whole number from 0 on")
    params = QuantParams(
        row.get("dtype", str),
        tuple(float(scale) for scale in row.several("scale", float)),
        row.several("zero_point", int),
        axis,
        row.count("block_size") if "block_size" in row else None,
        row.get("scale_tensor", str, None),
    )
    if flaw := _flaw(params):
        raise RecipeError(f"{where}, '{name}': {flaw}.")
    return params


def _flaw(params: QuantParams) -> str | None:
    """Returns what is impossible about parameters, with what is allowed, or None."""
    dtype, scales, zero_points = params.dtype, params.scale, params.zero_point
    if dtype != "float16" and dtype not in INTEGER_BITS:
        return f"dtype '{dtype}' is unknown (allowed: float16, {listed(INTEGER_BITS)})"
    if len(scales) != len(zero_points):
        return f"it has {len(scales)} scales and {len(zero_points)} zero points (allowed: as many of both)"
    if dtype == "float16" or params.block_size is not None:
        has_none = "float16 has none" if dtype == "float16" else "those of blocks are computed from the weights"
        return f"it has {len(scales)} scales, but {has_none}. Empty `scale` and `zero_point`" if scales else None
    if not scales:
        return "it has no scale (allowed: one, or one per index of `axis`)"
    if len(scales) > 1 and params.axis is None:
        return f"it has {len(scales)} scales, but no axis. Add `axis`, or leave one scale"
    if bad := [scale for scale in scales if not float(_FLOAT32.tiny) <= scale <= float(_FLOAT32.max)]:
        limits = f"{_FLOAT32.tiny:.3g} to {_FLOAT32.max:.3g}"
        return f"every scale must be a positive finite number that float32 holds ({limits}), found {bad[0]:g}"
    qmin, qmax = integer_range(dtype)
    if bad := [zero_point for zero_point in zero_points if not qmin <= zero_point <= qmax]:
        return f"the zero point {bad[0]} is no {dtype} (allowed: {qmin} to {qmax})"
    return None


def with_present_names(plan: Plan, model: Model) -> Plan:
    """Returns a plan by the names that tensors of the model have; where it knows former ones, with a note."""
    known, names = model.tensors.keys(), present_names(model)
    used = {*plan.forms, *plan.kept_float, *plan.dropped, *plan.params, *(key.rpartition(":")[0] for key in plan.edges)}
    if used <= known or not (used - known) <= names.keys():
        return plan

    def now(table: Mapping[str, Any]) -> dict[str, Any]:
        return {names.get(name, name): value for name, value in table.items()}

    edges = {edge(names.get(node, node), int(i)): p for (node, _, i), p in _parted(plan.edges)}
    note = "the plan names tensors as they were called before they were named after layers; write it anew (--plan-out)"
    tables = {name: now(getattr(plan, name)) for name in ("forms", "params", "kept_float", "dropped")}
    return replace(plan, **tables, edges=edges, notes=(*plan.notes, note))


def _parted(edges: Mapping[str, QuantParams]) -> Iterable[tuple[tuple[str, str, str], QuantParams]]:
    return ((key.rpartition(":"), params) for key, params in edges.items())


def check_fits(model: Model, plan: Plan) -> None:
    """Raises RecipeError unless the plan says what becomes of every operator, and of nothing else."""
    tensors = model.tensors
    nodes = {node.name: graph.tensors for graph in model.graphs for node in graph.nodes if touches_float(node, graph)}
    planned = {*plan.forms, *plan.kept_float, *plan.dropped}
    edges = {key.rpartition(":")[0] for key in plan.edges}
    known = {node.name for graph in model.graphs for node in graph.nodes}
    missing = [*sorted((planned | edges) - known), *(name for name in plan.params if name not in tensors)]
    unplanned = sorted(nodes.keys() - planned)
    if missing or unplanned:
        found = (
            f"this one has no {listed(map(repr, missing))}" if missing else f"it lacks {listed(map(repr, unplanned))}"
        )
        raise RecipeError(f"The plan is for another model: {found}. Plan it again.")
    for name, params in plan.params.items():
        shape = tensors[name].shape
        if params.is_per_channel and (params.axis or 0) < len(shape) and len(params.scale) != shape[params.axis or 0]:
            raise RecipeError(
                f"The plan is for another model: it has {len(params.scale)} scales for '{name}' of shape {list(shape)} "
                f"along axis {params.axis}. Plan it again."
            )
