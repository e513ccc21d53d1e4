"""The schema's numbers and their names: operators, types, options and enumerations."""

from __future__ import annotations

import functools
import re
from typing import Any

from ai_edge_litert import schema_py_generated

# The generated classes declare lists of int where they take arrays and bytes as well.
schema: Any = schema_py_generated


def _enumeration(name: str) -> dict[int, str]:
    return {code: key for key, code in vars(getattr(schema, name)).items() if not key.startswith("_")}


DTYPES = {code: key.lower() for code, key in _enumeration("TensorType").items()}
DTYPE_CODES = {name: code for code, name in DTYPES.items()}
OPS = _enumeration("BuiltinOperator")
OP_CODES = {name: code for code, name in OPS.items()}
OPTIONS = {name: code for code, name in _enumeration("BuiltinOptions").items() if code}
OPTIONS_2 = {name: code for code, name in _enumeration("BuiltinOptions2").items() if code}

# Option fields that hold an enumeration wherever they occur with an integer value.
_NAMED_FIELDS = {
    "padding": _enumeration("Padding"),
    "fused_activation_function": _enumeration("ActivationFunctionType"),
}
FUSED_ACTIVATIONS = frozenset(_NAMED_FIELDS["fused_activation_function"].values())
_NAMED_CODES = {field: {name: code for code, name in names.items()} for field, names in _NAMED_FIELDS.items()}


@functools.cache
def option_fields(options: str) -> dict[str, str]:
    """Maps the snake_case name of every field of an options table to the schema object's attribute."""
    return {_snake_case(key): key for key in vars(getattr(schema, f"{options}T")())}


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def options_to_attrs(options: Any) -> tuple[str, dict[str, Any]]:
    """Returns (table name, attributes) of an options object; vectors become tuples, bytes stay bytes."""
    kind = type(options).__name__.removesuffix("T")
    attrs: dict[str, Any] = {}
    for field, key in option_fields(kind).items():
        value = getattr(options, key)
        if type(value).__name__ == "ndarray":
            value = value.tobytes() if value.dtype == "uint8" else tuple(value.tolist())
        elif isinstance(value, list):
            value = tuple(value)
        elif field in _NAMED_FIELDS and isinstance(value, int):
            value = _NAMED_FIELDS[field].get(value, value)
        attrs[field] = value
    return kind, attrs


def attrs_to_options(kind: str, attrs: dict[str, Any]) -> Any:
    """Returns the options object of table `kind`; the inverse of `options_to_attrs`."""
    options = getattr(schema, f"{kind}T")()
    fields = option_fields(kind)
    for field, value in attrs.items():
        code = _NAMED_CODES[field][value] if field in _NAMED_CODES and isinstance(value, str) else value
        setattr(options, fields[field], code)
    return options
