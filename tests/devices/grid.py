"""The table to be held against the devices: one-operator models over forms, ranks, axes, windows and constants.

Each function yields (what is special, case) for one operator in one type; the models are the same on every run.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tests.operators.building import Case

from featherweight import operators
from featherweight.errors import FeatherweightError
from featherweight.graph import Model
from featherweight.graph.numerics import QuantParams, integer_range
from featherweight.runtime import run_reference

Entry = tuple[str, Case]
Entries = Iterator[Entry]
Function = Callable[[str, str], Entries]

QUANTIZED, PLAIN = ("int8", "int16"), ("float32", "int32", "int64", "bool")
EVERY = (*QUANTIZED, *PLAIN)
GRID: dict[str, tuple[Function, tuple[str, ...]]] = {}


@dataclass(frozen=True, eq=False)
class Tried:
    """One model of the table, and what the reference kernels compute of its inputs; None where they can't."""

    op: str
    form: str
    what: str
    model: Model
    feeds: dict[str, np.ndarray]
    expected: list[np.ndarray] | None

    @property
    def name(self) -> str:
        return f"{self.op} {self.form}: {self.what}"

    @property
    def fed(self) -> list[np.ndarray]:
        """The inputs in the file's order."""
        return [self.feeds[name] for name in self.model.main.inputs]


def grid(*ops: str, forms: tuple[str, ...] = QUANTIZED) -> Callable[[Function], Function]:
    """Enrols what yields the cases of operators, called with the operator and each of its types."""

    def enrol(function: Function) -> Function:
        for op in ops:
            GRID[op] = (function, forms)
        return function

    return enrol


def tried(*ops: str) -> Iterator[Tried]:
    """Yields all models of some operators, or of all.

    Where the reference kernels know an operator in some of its types only, it has the same shapes in int8 and int16;
    plain numbers of the other types are left out, as LiteRT has no kernel of them either.
    """
    for op in sorted(ops or GRID):
        shapes: dict[str, list[tuple[int, ...]]] = {}
        later: list[tuple[str, Case]] = []
        function, forms = GRID[op]
        for form in forms:
            for what, case in function(op, form):
                try:
                    model = case.model()
                except FeatherweightError:
                    later.append((what, case))
                    continue
                shapes.setdefault(what, [model.main.tensors[name].shape for name in model.main.outputs])
                yield Tried(op, case.form, what, model, case.feeds, _expected(model, case))
        for what, case in later:
            is_of_numbers = case.form.partition("*")[0] in QUANTIZED and set(operators.lookup(op).kernels) != {"bool"}
            if what in shapes and is_of_numbers:
                yield Tried(op, case.form, what, case.shaped(shapes[what]), case.feeds, None)


def _expected(model: Model, case: Case) -> list[np.ndarray] | None:
    try:
        found = run_reference(model, case.feeds, "tflm")
    except FeatherweightError:
        return None
    return [found[name] for name in model.main.outputs]


def params(dtype: str, scale: float = 0.05, zero: int = 3) -> QuantParams | None:
    """Returns the parameters of integers that stand for real numbers; None for types that stand for themselves."""
    if dtype == "int8":
        return QuantParams(dtype, (float(np.float32(scale)),), (zero,))
    return QuantParams(dtype, (float(np.float32(scale / 256)),), (0,)) if dtype == "int16" else None


def values(shape: tuple[int, ...], dtype: str, salt: str = "", *, positive: bool = False) -> np.ndarray:
    """Returns random numbers, the same for the same shape, type and salt."""
    random = np.random.default_rng(zlib.crc32(f"{shape} {dtype} {salt}".encode()))
    if dtype == "float32":
        x = random.normal(0, 1.5, shape).astype(np.float32)
        return np.abs(x) + np.float32(0.1) if positive else x
    if dtype == "bool":
        return random.integers(0, 2, shape).astype(np.bool_)
    low, high = integer_range(dtype) if dtype in ("int8", "int16", "int4") else (-40, 41)
    x = random.integers(low, high, shape, endpoint=True)
    return (np.abs(x) % high + 1 if positive else x).astype("int8" if dtype == "int4" else dtype)


def ints(*numbers: Any, dtype: str = "int32") -> np.ndarray:
    """Returns a vector of sizes, axes or places."""
    return np.asarray(numbers, dtype)


def built(op: str, form: str, attrs: Mapping[str, Any] | None = None) -> Case:
    """Returns a case without tensors, with the attributes that the operator's integer form needs."""
    activation = form.split("*")[0]
    needed = operators.lookup(op).integer_attrs.get(activation, {})
    return Case(op, {**(attrs or {}), **needed}, form=form)


def operand(case: Case, name: str, array: np.ndarray, quant: QuantParams | None, *, constant: bool = False) -> Case:
    """Adds an operand that is fed, or a constant."""
    return case.constant(name, array, quant) if constant else case.fed(name, array, quant)


SHAPES: tuple[tuple[int, ...], ...] = (
    (), (7,), (2, 5), (2, 3, 5), (1, 3, 4, 5), (2, 3, 4, 5), (2, 1, 3, 2, 4), (1, 2, 1, 3, 2, 2), (1, 1, 2, 1, 3, 2, 2),
)  # fmt: skip
