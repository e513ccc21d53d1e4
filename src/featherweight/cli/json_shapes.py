"""What ``--json`` prints, command by command: shapes as types, and the JSON Schema that follows from them."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict, Union, get_args, get_origin, get_type_hints, is_typeddict

from featherweight.analysis.inspection import Inspection
from featherweight.analysis.tensor_rows import TensorError
from featherweight.choosing.budget import Tried
from featherweight.choosing.flow import Step
from featherweight.choosing.scores import Scores
from featherweight.cli.harness import JSON_VERSION, schema_name
from featherweight.device_code.arena import Arena
from featherweight.encoded_files.records import EncodedTensor
from featherweight.report.curve import Curve
from featherweight.report.diagnosis import Diagnosis
from featherweight.report.proof import ProofSheet
from featherweight.runtime.benchmark import Latency
from featherweight.runtime.operator_times import OperatorTimes
from featherweight.sparse_files.store import StoredTensor
from featherweight.targets.target import Violation
from featherweight.tasks.cluster import ClusteredKernel
from featherweight.tasks.prune import PrunedKernel
from featherweight.tasks.remove_channels import ChannelGroup

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
# Infinite and unknown numbers are null.
_PLAIN = {bool: "boolean", int: "integer", float: ["number", "null"], str: "string", type(None): "null"}


class Comparison(TypedDict):
    """The error of every tensor, worst first."""

    tensors: list[TensorError]


class Score(TypedDict):
    """A task metric."""

    metric: str
    value: float
    standard_error: float
    count: int


class Latencies(TypedDict):
    """Latency side by side; ratios are to the first model."""

    models: list[Latency]
    operators: NotRequired[Mapping[str, OperatorTimes]]


class Checked(TypedDict):
    """What a target does not run."""

    target: str
    violations: list[Violation]


class Pruned(TypedDict):
    """What pruning made: kernels with zeros, or with `--pattern channel` groups of channels."""

    file: str
    file_bytes: int
    sparsity: NotRequired[float]
    compressed_bytes: NotRequired[int]
    compressed_bytes_before: NotRequired[int]
    dense_file_bytes: NotRequired[int]
    dense_compressed_bytes: NotRequired[int]
    kernels: NotRequired[list[PrunedKernel]]
    stored: NotRequired[list[StoredTensor]]
    violations: NotRequired[list[Violation]]
    groups: NotRequired[list[ChannelGroup]]
    macs: NotRequired[tuple[int, ...]]
    weight_bytes: NotRequired[tuple[int, ...]]


class Clustered(TypedDict):
    """Kernels with few values."""

    file: str
    file_bytes: int
    kernels: list[ClusteredKernel]


class Encoded(TypedDict):
    """A file whose weights are decoded where they are read; `arena` before and after, where it could be measured."""

    file: str
    file_bytes: int
    plain_file_bytes: int
    scratch_bytes: int
    decoded_bytes: int
    arena: list[Arena] | None
    unverified: str
    tensors: list[EncodedTensor]


class Search(TypedDict):
    """The best file, the files that no other beats, all that were measured, and what the target does not run."""

    best: Tried
    front: list[Tried]
    tried: list[Tried]
    violations: list[Violation]


class Flow(TypedDict):
    """The steps of the flow, and the name of the one whose file is written."""

    chosen: str
    fits: bool
    steps: list[Step]


class Named(TypedDict):
    """A recipe."""

    name: str
    description: str


class Device(TypedDict):
    """A target."""

    name: str
    description: str
    profile: str
    io: str


class Recipes(TypedDict):
    """The recipes that there are."""

    recipes: list[Named]


class Targets(TypedDict):
    """The targets that there are."""

    targets: list[Device]


# The shape of what a command prints, and members beyond its record's fields.
SHAPES: Mapping[str, tuple[type, Mapping[str, Any]]] = {
    "inspect": (Inspection, {"is_integer": bool}),
    "prune": (Pruned, {}),
    "cluster": (Clustered, {}),
    "compare": (Comparison, {}),
    "diagnose": (Diagnosis, {"is_healthy": bool, "verdict": str, "own_db": float}),
    "evaluate": (Score, {}),
    "benchmark": (Latencies, {}),
    "check": (Checked, {}),
    "curve": (Curve, {"knees": Mapping[str, float]}),
    "sensitivity": (Scores, {}),
    "search": (Search, {}),
    "optimize": (Flow, {}),
    "prove": (ProofSheet, {"is_equal": bool, "is_proven": bool, "verdict": str}),
    "encode": (Encoded, {}),
    "recipes": (Recipes, {}),
    "targets": (Targets, {}),
}
_COMPUTED: Mapping[type, Mapping[str, Any]] = {PrunedKernel: {"sparsity": float}}


def schema(command: str) -> dict[str, Any]:
    """Returns the JSON Schema (2020-12) of what a command prints with ``--json``.

    >>> schema("check")["required"]
    ['schema', 'version', 'target', 'violations']
    """
    root, members = SHAPES[command]
    records: dict[str, Any] = {}
    body = _object(root, records, members)
    stamp = {"schema": {"const": schema_name(command)}, "version": {"const": JSON_VERSION}}
    body["properties"] = {**stamp, **body["properties"]}
    body["required"] = [*stamp, *body["required"]]
    return {"$schema": _DIALECT, "$id": schema_name(command), **body, **({"$defs": records} if records else {})}


def _object(record: type, records: dict[str, Any], members: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the schema of a record or typed dict, whose fields are all there is."""
    said = _descriptions(record)
    hints = get_type_hints(record, include_extras=True)
    if dataclasses.is_dataclass(record):
        hints = {field.name: hints[field.name] for field in dataclasses.fields(record)}
    optional = [name for name, hint in hints.items() if get_origin(hint) is NotRequired]
    hints = {name: get_args(hint)[0] if name in optional else hint for name, hint in hints.items()}
    shapes = {name: _shape(hint, records) for name, hint in {**hints, **members}.items()}
    return {
        "type": "object",
        "description": (inspect.getdoc(record) or "").partition("\n")[0],
        "properties": {name: {**shape, **_described(said.get(name))} for name, shape in shapes.items()},
        "required": [name for name in shapes if name not in optional],
        "additionalProperties": False,
    }


def _shape(hint: Any, records: dict[str, Any]) -> dict[str, Any]:
    """Returns the schema of a type; records are collected by name, and referred to."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in _PLAIN:
        return {"type": _PLAIN[hint]}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_shape(each, records) for each in arguments]}
    if origin is tuple and arguments[-1] is not ...:
        each = [_shape(argument, records) for argument in arguments]
        return {"type": "array", "prefixItems": each, "minItems": len(each), "maxItems": len(each)}
    if origin in (tuple, list, Sequence):
        return {"type": "array", "items": _shape(arguments[0], records)}
    if origin in (dict, Mapping):
        return {"type": "object", "additionalProperties": _shape(arguments[1], records)}
    if isinstance(hint, type) and (dataclasses.is_dataclass(hint) or is_typeddict(hint)):
        if hint.__name__ not in records:
            records[hint.__name__] = {}
            records[hint.__name__] = _object(hint, records, _COMPUTED.get(hint, {}))
        return {"$ref": f"#/$defs/{hint.__name__}"}
    raise TypeError(f"{hint} has no JSON Schema")


def _descriptions(record: type) -> dict[str, str]:
    """Returns what a docstring says of a record's attributes."""
    text = (inspect.getdoc(record) or "").partition("Attributes:\n")[2]
    entries = re.findall(r"^    ((?:\w+, )*\w+): (.+(?:\n {5,}.+)*)", text, re.MULTILINE)
    return {name: " ".join(said.split()) for names, said in entries for name in names.split(", ")}


def _described(said: str | None) -> dict[str, str]:
    return {"description": said} if said else {}
