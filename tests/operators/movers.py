"""Random models of the operators that move data, and of those that pick from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st
from tests.operators.building import Case, case, image, integers, params, random_of

from featherweight.graph.numerics import QuantParams

TYPES = ("int8", "int16", "float32", "int32")


def stands_for(draw: Callable[..., Any], dtype: str) -> QuantParams | None:
    """Draws the parameters of integers that stand for real numbers."""
    return params(draw, dtype) if dtype in ("int8", "int16") else None


def filled(random: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Returns random numbers."""
    return random.normal(0, 1, shape).astype(np.float32) if dtype == "float32" else integers(random, shape, dtype)


def picture(draw: Callable[..., Any], dtype: str, channels: int, least: int = 5) -> np.ndarray:
    """Draws an image of any type."""
    return filled(random_of(draw), image(draw, "int8", channels, least).shape, dtype)


@case("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", forms=("int8", "int16", "float32"))
def _resize(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    align, half = draw(st.sampled_from(((False, False), (False, True), (True, False))))
    built = Case(op, {"align_corners": align, "half_pixel_centers": half})
    quant = stands_for(draw, dtype)
    built.fed("x", picture(draw, dtype, draw(st.integers(1, 9)), least=2), quant)
    size = np.array([draw(st.integers(2, 20)), draw(st.integers(2, 20))], np.int32)
    return built.constant("size", size).gives(dtype, quant)


@case("SPACE_TO_DEPTH", "DEPTH_TO_SPACE", forms=("int8", "float32", "int32"))
def _blocks(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    quant, block = stands_for(draw, dtype), draw(st.integers(2, 3))
    size = draw(st.integers(1, 3)) * block, draw(st.integers(1, 3)) * block, draw(st.integers(1, 3)) * block**2
    x = filled(random_of(draw), (2, *size), dtype)
    return Case(op, {"block_size": block}).fed("x", x, quant).gives(dtype, quant)


@case("PAD", "RESHAPE", "SQUEEZE", "EXPAND_DIMS", "TRANSPOSE", "SLICE", "STRIDED_SLICE", "GATHER", forms=TYPES)
def _moved(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    quant = stands_for(draw, dtype)
    x = picture(draw, dtype, draw(st.integers(1, 9)))
    begin = np.array([0, *(draw(st.integers(0, 2)) for _ in range(2)), 0], np.int32)
    attrs, constants = {
        "PAD": ({}, [np.array([(0, 0), *(draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
                for _ in range(2)), (0, 1)], np.int32)]),
        "RESHAPE": ({}, [np.array([x.shape[0], -1, x.shape[3]], np.int32)]),
        "SQUEEZE": ({"squeeze_dims": (1,)}, []),
        "EXPAND_DIMS": ({}, [np.array([draw(st.integers(-2, 3))], np.int32)]),
        "TRANSPOSE": ({}, [np.array(draw(st.permutations(range(4))), np.int32)]),
        "SLICE": ({}, [begin, np.array([-1, 2, -1, x.shape[3]], np.int32)]),
        "STRIDED_SLICE": (
            {f"{k}_mask": 0 for k in ("ellipsis", "new_axis", "shrink_axis")}
            | {"begin_mask": draw(st.integers(0, 15)), "end_mask": draw(st.integers(0, 15)) | 9,
               "shrink_axis_mask": draw(st.sampled_from((0, 2)))},
            [begin, np.array([9, -1, 4, 9], np.int32), np.array([1, 1, draw(st.integers(1, 2)), 1], np.int32)],
        ),
        "GATHER": (
            {"axis": draw(st.integers(1, 2)), "batch_dims": 0},
            [np.array([3, 0, 0, 2], np.int32)],
        ),
    }[op]  # fmt: skip
    if op == "SQUEEZE":
        x = np.ascontiguousarray(x[:, :1])
    built = Case(op, attrs).fed("x", x, quant)
    for index, array in enumerate(constants):
        built.constant(f"c{index}", array)
    return built.gives(dtype, quant)


@case("CONCATENATION", "PACK", "SPLIT", "SPLIT_V", "UNPACK", forms=TYPES)
def _joined(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    quant, random = stands_for(draw, dtype), random_of(draw)
    axis, parts = draw(st.integers(0, 3)), draw(st.integers(2, 3))
    shape = [2, 3, 4, 5]
    if op == "SPLIT":
        shape[axis] *= parts
        built = Case(op, {"num_splits": parts}).constant("axis", np.array(axis, np.int32))
        return built.fed("x", filled(random, tuple(shape), dtype), quant).gives(dtype, quant, parts)
    if op == "SPLIT_V":
        sizes = [draw(st.integers(1, 3)) for _ in range(parts)]
        shape[axis] = sum(sizes)
        sizes[draw(st.integers(0, parts - 1))] = -1
        built = Case(op, {"num_splits": parts})
        built.fed("x", filled(random, tuple(shape), dtype), quant)
        built.constant("sizes", np.array(sizes, np.int32)).constant("axis", np.array(axis, np.int32))
        return built.gives(dtype, quant, parts)
    if op == "UNPACK":
        built = Case(op, {"num": shape[axis], "axis": axis})
        return built.fed("x", filled(random, tuple(shape), dtype), quant).gives(dtype, quant, shape[axis])
    attrs = {"axis": axis} | ({"values_count": parts} if op == "PACK" else {})
    built = Case(op, attrs)
    for number in range(parts):
        shape[axis] = 5 if op == "PACK" else draw(st.integers(1, 4))
        built.fed(f"x{number}", filled(random, tuple(shape), dtype), quant)
    return built.gives(dtype, quant)


@case("BROADCAST_TO")
@case("TILE", "REVERSE_V2", "MIRROR_PAD", "GATHER_ND", "SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND", forms=TYPES)
def _rearranged(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    quant, random = stands_for(draw, dtype), random_of(draw)
    pairs = st.tuples(st.integers(0, 2), st.integers(0, 2))
    if op == "BROADCAST_TO":
        x = filled(random, (1, 3, 1, 5), dtype)
        built = Case(op).fed("x", x, quant)
        return built.constant("c", np.array([2, 3, draw(st.integers(1, 4)), 5], np.int32)).gives(dtype, quant)
    if op in ("SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND"):
        block, even = draw(st.integers(1, 2)), draw(st.sampled_from((0, 2)))
        shape = (2, 4, 6, 3) if op == "SPACE_TO_BATCH_ND" else (2 * block**2, 3, 4, 3)
        edges = np.array([(even, 0), (even // 2, even // 2)], np.int32)
        built = Case(op).fed("x", filled(random, shape, dtype), quant)
        return built.constant("b", np.array([block, block], np.int32)).constant("e", edges).gives(dtype, quant)
    x = picture(draw, dtype, draw(st.integers(3, 9)))
    mode = draw(st.integers(0, 1))
    attrs, array = {
        "TILE": ({}, [draw(st.integers(1, 3)) for _ in range(4)]),
        "REVERSE_V2": ({}, [draw(st.integers(0, 3))]),
        "MIRROR_PAD": (
            {"mode": mode},
            [(0, 0), draw(pairs), draw(pairs), (0, 1)],
        ),
        "GATHER_ND": ({}, [(0, 1), (0, 3), (0, 0)]),
    }[op]
    return Case(op, attrs).fed("x", x, quant).constant("c", np.array(array, np.int32)).gives(dtype, quant)


@case("MAXIMUM", "MINIMUM")
def _extreme(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    quant = params(draw, dtype)
    x, z = image(draw, dtype, 5), integers(random_of(draw), (1, 1, 1, 5), dtype)
    return Case(op).fed("x", x, quant).fed("z", z, quant).gives(dtype, quant)


@case("REDUCE_MAX", "REDUCE_MIN")
def _extremes(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    quant = params(draw, dtype)
    built = Case(op, {"keep_dims": draw(st.booleans())}).fed("x", image(draw, dtype, 5), quant)
    axes = draw(st.sampled_from(((1, 2), (3,), (1,), (0, 3), (-1,))))
    return built.constant("axes", np.asarray(axes, np.int32)).gives(dtype, quant)


@case("ARG_MAX", "ARG_MIN", forms=("int8",))
def _positions(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    x = random_of(draw).integers(-3, 3, (2, 5, 7, 6)).astype(dtype)
    built = Case(op, {"output_type": 2}).fed("x", x, params(draw, dtype))
    return built.constant("axis", np.array([draw(st.integers(0, 3))], np.int32)).gives("int32", None)
