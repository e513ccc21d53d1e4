"""What the files of targets may say, and what is read of them."""

from __future__ import annotations

import math
from typing import Any

from featherweight import operators
from featherweight.errors import listed
from featherweight.recipes.toml import Table, check_known
from featherweight.sparsity import patterns
from featherweight.tflite.codings import CODINGS
from featherweight.tflite.lean import UNREAD
from featherweight.tflite.names import OP_CODES

TEXTS, _FLAGS = (
    ("name", "description", "profile"),
    ("complete", "float", "one_entry", "ordered", "per_channel", "power_of_two", "symmetric"),
)
_KEYS = (
    "complete",
    "constraint",
    "description",
    "float",
    "io",
    "name",
    "one_entry",
    "ops",
    "ordered",
    "packs",
    "per_channel",
    "power_of_two",
    "symmetric",
    "profile",
    "softmax_limit",
    "codings",
    "unread",
    "weight_only",
    "sparsity",
    "extends",
    "slower_ns",
    "unoptimized",
)
ACTIVATIONS, _WEIGHTS = ("int8", "int16"), ("int8", "int4")
# Types of numbers that stand for themselves, which a table that is complete names too.
_PLAIN = ("float32", "int32", "int64", "uint8", "bool", "resource")
STORED = ("int8", "int4", "float16")


def settings(table: Table) -> dict[str, Any]:
    """Returns the values of one file once they are known to be of the right kind."""
    table.check_keys(_KEYS)
    for kind, keys in ((str, TEXTS), (bool, _FLAGS)):
        for key in keys:
            table.get(key, kind, None)
    if "io" in table:
        table.choice("io", ("float32", "int8"))
    if "softmax_limit" in table:
        table.count("softmax_limit")
    if "weight_only" in table and not set(table.several("weight_only", str)) <= set(STORED):
        raise table.error("weight_only", f"a list of {listed(STORED)}")
    if "unread" in table and not set(table.several("unread", str)) <= set(UNREAD):
        raise table.error("unread", f"a list of {listed(UNREAD)}")
    if "codings" in table and not set(table.several("codings", str)) <= set(CODINGS):
        raise table.error("codings", f"a list of {listed(CODINGS)}")
    return dict(table.values)


def forms(rows: Table) -> dict[str, tuple[str, ...]]:
    """Returns operator → forms; operators with a weight run in ``activation*weight``, the others in ``activation``."""
    found: dict[str, tuple[str, ...]] = {}
    for op in rows.values:
        check_known(op, OP_CODES, "operator", rows.where)
        allowed = (*ACTIVATIONS, *_PLAIN)
        if operators.lookup(op).weight is not None:
            allowed = (
                tuple(f"{activation}*{weight}" for activation in (*ACTIVATIONS, "float32") for weight in _WEIGHTS)
                + _PLAIN
            )
        found[op] = rows.several(op, str)
        if not set(found[op]) <= set(allowed):
            raise rows.error(op, f"a list of {listed(allowed)}")
    return found


def sparsity(rows: Table) -> dict[str, str]:
    """Returns operator → sparsity pattern."""
    for op in rows.values:
        check_known(op, OP_CODES, "operator", rows.where)
        patterns.parse(rows.get(op, str))
    return dict(rows.values)


def times(rows: Table) -> dict[str, float]:
    """Returns operator → a measured time or ratio; 0 takes back what an extended target says."""
    found: dict[str, float] = {}
    for op in rows.values:
        check_known(op, OP_CODES, "operator", rows.where)
        found[op] = float(rows.get(op, float))
        if not 0 <= found[op] < math.inf:
            raise rows.error(op, "a number from 0 on")
    return found


def packs(rows: Table) -> dict[str, int]:
    """Returns type → channels that kernels compute together."""
    for dtype in rows.values:
        check_known(dtype, ("int8", "float32"), "type", rows.where)
        rows.count(dtype)
    return dict(rows.values)
