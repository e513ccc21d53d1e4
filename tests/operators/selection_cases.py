"""Random models of comparisons, logic, choices, and of operators that make tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from tests.operators.building import Case, case, image, params, random_of
from tests.operators.function_cases import plain

from featherweight.graph.numerics import QuantParams

QUANTIZED = ("int8", "int16")
PLAIN = ("float32", "int32", "int64", "bool")


def values(draw: Callable[..., Any], dtype: str) -> tuple[np.ndarray, QuantParams | None]:
    """Draws an image, with parameters where integers stand for real numbers."""
    quant = params(draw, dtype) if dtype in QUANTIZED else None
    return (plain(draw, dtype) if quant is None else image(draw, dtype, draw(st.integers(1, 9)), least=3)), quant


def like(draw: Callable[..., Any], x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Draws values of another array, in another shape."""
    return random_of(draw).choice(x.reshape(-1), shape)


def index(*numbers: int) -> np.ndarray:
    return np.asarray(numbers, np.int32)


@case("EQUAL", "NOT_EQUAL", forms=("int8", "int16", "float32", "int32", "int64", "bool"))
@case("GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL", forms=("int8", "int16", "float32", "int32", "int64"))
def _compared(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    x, quant = values(draw, dtype)
    if quant is not None:
        quant = replace(params(draw, dtype, -8 if dtype == "int8" else -14, -1), zero_point=quant.zero_point)
    is_plain = dtype == "int16" and op not in ("EQUAL", "NOT_EQUAL")
    other = quant if quant is None or is_plain or draw(st.booleans()) else params(draw, dtype, -8, -1)
    z = like(draw, x, draw(st.sampled_from((x.shape, x.shape, (1, 1, 1, x.shape[3]), ()))))
    return Case(op).fed("x", x, quant).fed("z", z, other).gives("bool", None)


@case("LOGICAL_AND", "LOGICAL_OR", "LOGICAL_NOT", forms=("bool",))
def _logic(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    x = plain(draw, dtype)
    built = Case(op).fed("x", x, None)
    if op != "LOGICAL_NOT":
        built.fed("z", like(draw, x, draw(st.sampled_from((x.shape, (1, 1, 1, x.shape[3]))))), None)
    return built.gives("bool", None)


@case("SELECT", "SELECT_V2", forms=(*QUANTIZED, *PLAIN))
def _chosen(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    x, quant = values(draw, dtype)
    whole = x.shape
    shapes = [(whole, whole, whole)]
    if op == "SELECT":
        shapes.append(((whole[0],), whole, whole))
    else:
        shapes += [((1, 1, 1, whole[3]), whole, ()), (whole, (1, 1, 1, whole[3]), (1, whole[1], 1, 1))]
    chosen = draw(st.sampled_from(shapes))
    condition = random_of(draw).integers(0, 2, chosen[0]).astype(np.bool_)
    built = Case(op).fed("condition", condition, None)
    built.fed("x", like(draw, x, chosen[1]), quant).fed("z", like(draw, x, chosen[2]), quant)
    return built.gives(dtype, quant)


@case("TOPK_V2", forms=(*QUANTIZED, "float32", "int32", "int64"))
def _largest(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    quant = params(draw, dtype) if dtype in QUANTIZED else None
    shape = draw(st.sampled_from(((40,), (3, 17), (2, 5, 9))))
    random = random_of(draw)
    x = (random.permutation(np.prod(shape)).reshape(shape) - 20).astype(dtype)
    if dtype != "float32":
        x = random.integers(-9, 9, shape).astype(dtype)  # many are equal
    count = draw(st.integers(1, shape[-1]))
    built = Case(op).fed("x", x, quant).constant("k", np.array(count, np.int32)).gives(dtype, quant, 2)
    built.outputs[1] = replace(built.outputs[1], dtype="int32", quant=None)
    return built


@case("WHERE", forms=("bool", "float32", "int32"))
def _where(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    x = plain(draw, dtype)
    if dtype != "bool":
        x = x * random_of(draw).integers(0, 2, x.shape).astype(dtype)
    return Case(op).fed("x", x, None).gives("int64", None)


@case("GATHER plain", forms=PLAIN)
@case("GATHER batches", forms=QUANTIZED)
def _gathered(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    x, quant = values(draw, dtype)
    batches = draw(st.integers(0, 1))
    axis = draw(st.integers(batches, 3))
    places = random_of(draw).integers(0, x.shape[axis], (x.shape[0], 4) if batches else (2, 3))
    places = places.astype(draw(st.sampled_from((np.int32, np.int64))))
    built = Case("GATHER", {"axis": axis, "batch_dims": batches}).fed("x", x, quant)
    return built.fed("places", places, None).gives(dtype, quant)


@case("DYNAMIC_UPDATE_SLICE", forms=(*QUANTIZED, "float32", "int32", "int64", "bool"))
def _updated(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    x, quant = values(draw, dtype)
    block = like(draw, x, tuple(draw(st.integers(1, size)) for size in x.shape))
    begin = index(*(draw(st.integers(-2, size)) for size in x.shape))
    built = Case(op).fed("x", x, quant).fed("block", block, quant)
    return built.fed("begin", begin, None).gives(dtype, quant)


@case("PADV2", forms=(*QUANTIZED, "float32", "int32", "int64"))
def _padded(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    x, quant = values(draw, dtype)
    widths = np.asarray([[draw(st.integers(0, 2)), draw(st.integers(0, 2))] for _ in range(4)], np.int32)
    value = like(draw, x, (1,))
    built = Case(op).fed("x", x, quant).constant("widths", widths).constant("value", value, quant)
    return built.gives(dtype, quant)


@case("CUMSUM", forms=("float32", "int32", "int64"))
def _summed_up(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    attrs = {"exclusive": draw(st.booleans()), "reverse": draw(st.booleans())}
    axis = np.array(draw(st.integers(-4, 3)), np.int32)
    built = Case(op, attrs).fed("x", plain(draw, dtype), None).constant("axis", axis)
    return built.gives(dtype, None)


@case("SHAPE", forms=(*QUANTIZED, *PLAIN))
@case("RANK", "ZEROS_LIKE", forms=("float32", "int32", "int64"))
def _described(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    x, quant = values(draw, dtype)
    out = {"SHAPE": draw(st.sampled_from(("int32", "int64"))), "RANK": "int32", "ZEROS_LIKE": dtype}[op]
    code = {"int32": 2, "int64": 4}.get(out, 0)
    return Case(op, {"out_type": code} if op == "SHAPE" else {}).fed("x", x, quant).gives(out, None)


@case("FILL", forms=(*QUANTIZED, *PLAIN))
def _filled(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    x, quant = values(draw, dtype)
    size = np.asarray([draw(st.integers(1, 5)) for _ in range(draw(st.integers(1, 4)))], draw(
        st.sampled_from((np.int32, np.int64))))  # fmt: skip
    built = Case(op).fed("size", size, None).fed("value", like(draw, x, ()), quant)
    return built.gives(dtype, quant)


@case("RANGE", forms=("int32", "int64", "float32"))
def _sequence(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    step = draw(st.sampled_from((-3, -1, 1, 2, 5)))
    first = draw(st.integers(-20, 20))
    numbers = [first, first + step * draw(st.integers(1, 30)) + (1 if step > 0 else -1), step]
    if dtype == "float32":
        numbers = [0.0, (numbers[1] - first) * 0.3, step * 0.3]
    built = Case(op).fed("first", np.asarray(numbers[0], dtype), None)
    built.constant("limit", np.asarray(numbers[1], dtype)).constant("step", np.asarray(numbers[2], dtype))
    return built.gives(dtype, None)


@case("ONE_HOT", forms=("float32", "int32", "int64", "int8", "bool"))
def _one_hot(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    random, on, off = random_of(draw), np.asarray(1, dtype), np.asarray(0, dtype)
    if dtype not in ("bool",):
        on, off = np.asarray(draw(st.integers(-9, 9)), dtype), np.asarray(draw(st.integers(-9, 9)), dtype)
    places = random.integers(-1, 7, (3, 4)).astype(draw(st.sampled_from((np.int32, np.int64))))
    built = Case(op, {"axis": draw(st.integers(-1, 2))}).fed("places", places, None)
    built.constant("depth", np.array(6, np.int32)).constant("on", on).constant("off", off)
    return built.gives(dtype, None)


@case("CAST", forms=("float32", "int32", "int64", "bool", "int8", "int16", "uint8"))
def _cast(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    out = draw(st.sampled_from(("float32", "int32", "int64", "bool", "int8", "int16", "uint8")))
    x = plain(draw, "int32") if dtype not in ("float32", "bool") else plain(draw, dtype)
    x = np.clip(x, 0, 120) if "uint8" in (dtype, out) and dtype != "bool" else x
    x = np.clip(x, -120, 120) if dtype == "float32" else x
    codes = {"float32": 0, "int32": 2, "uint8": 3, "int64": 4, "bool": 6, "int16": 7, "int8": 9}
    attrs = {"in_data_type": codes[dtype], "out_data_type": codes[out]}
    return Case(op, attrs).fed("x", x.astype(dtype), None).gives(out, None)
