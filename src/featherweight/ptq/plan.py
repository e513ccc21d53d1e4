"""The plan: every decision about one graph, as data that one can read, compare, edit and hand back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from featherweight.errors import RecipeError, listed
from featherweight.numerics import INTEGER_BITS, QuantParams
from featherweight.tflite import write_atomically

FORMAT = 1


@dataclass(frozen=True)
class Plan:
    """What becomes of every operator and tensor of one graph.

    A *form* is ``"activation"`` or ``"activation*weight"``: ``"int8*int8"`` computes in integers, ``"float32*int8"``
    lets the kernel quantize activations on the fly, ``"float32+int8"`` stores integers and computes in float.

    Attributes:
        profile: arithmetic profile that the target rounds in.
        io: ``float32`` for float inputs and outputs, ``int8`` for integer ones.
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

    def to_json(self) -> str:
        """Returns the plan as JSON text; float32 scales survive exactly."""
        table: dict[str, Any] = {"format": FORMAT} | asdict(self)
        for section in ("params", "edges"):
            table[section] = {name: _params_to_table(params) for name, params in getattr(self, section).items()}
        return json.dumps(table, indent=1) + "\n"

    def save(self, path: str | Path) -> None:
        """Writes the plan as JSON, atomically."""
        write_atomically(path, [self.to_json().encode()])


def edge(node: str, position: int) -> str:
    """Returns the key of one input of one operator in `Plan.edges`."""
    return f"{node}:{position}"


def from_json(text: str, where: str = "the plan") -> Plan:
    """Returns the plan that JSON text holds.

    Raises:
        RecipeError: if it is no plan, of another format version, or holds impossible parameters.
    """
    try:
        table = json.loads(text)
        version = table.pop("format")
        if version != FORMAT:
            raise RecipeError(
                f"{where}: plan format {version} can't be read (allowed: {FORMAT}). Plan the model again."
            )
        if unknown := sorted(set(table) - {f.name for f in fields(Plan)}):
            raise RecipeError(f"{where}: unknown key {listed(unknown)}. Compare it with a written plan.")
        for section in ("params", "edges"):
            table[section] = {name: _params(row, f"{where}, '{name}'") for name, row in table[section].items()}
        return Plan(**table | {"notes": tuple(table["notes"])})
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise RecipeError(
            f"{where} is not a plan: {type(error).__name__} {error}. Write one with --plan-out."
        ) from error


def load(path: str | Path) -> Plan:
    """Reads a plan from a JSON file.

    Raises:
        RecipeError: if the file can't be read or holds no plan.
    """
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"Plan '{path}' can't be read: {error}. Write one with --plan-out.") from error
    return from_json(text, f"Plan '{path}'")


def _params_to_table(params: QuantParams) -> dict[str, Any]:
    return {key: value for key, value in asdict(params).items() if value is not None}


def _params(row: dict[str, Any], where: str) -> QuantParams:
    fields: dict[str, Any] = row | {"scale": tuple(map(float, row["scale"])), "zero_point": tuple(row["zero_point"])}
    params = QuantParams(**fields)
    if params.dtype != "float16" and params.dtype not in INTEGER_BITS:
        raise RecipeError(f"{where}: dtype '{params.dtype}' is unknown (allowed: float16, {listed(INTEGER_BITS)}).")
    if any(not 0 < scale < float("inf") for scale in params.scale):
        raise RecipeError(f"{where}: every scale must be a positive finite number, found {min(params.scale):g}.")
    return params
