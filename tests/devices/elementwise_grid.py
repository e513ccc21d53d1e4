"""Operators of one and two operands, element by element, and what normalizes rows."""

from __future__ import annotations

import numpy as np
from tests.devices.grid import EVERY, QUANTIZED, SHAPES, Entries, built, grid, operand, params, values

from featherweight import operators
from featherweight.graph.numerics import QuantParams

PAIRS = (
    *((shape, shape) for shape in SHAPES),
    ((2, 3, 4, 5), ()),
    ((2, 3, 4, 5), (1,)),
    ((2, 3, 4, 5), (5,)),
    ((2, 3, 4, 5), (1, 1, 1, 5)),
    ((1, 3, 4, 5), (1, 3, 4, 1)),
    ((1, 3, 4, 5), (4, 5)),
    ((5,), (2, 3, 4, 5)),
    ((2, 1, 4, 1), (1, 3, 1, 5)),
    ((2, 1, 3, 1, 4), (1, 2, 1, 5, 1)),
    ((2, 1, 3, 2, 4), (4,)),
    ((2, 1, 3, 2, 4), ()),
    ((1, 2, 1, 3, 2, 2), (2,)),
    ((1, 2, 1, 3, 1, 2), (1, 1, 2, 1, 2, 1)),
    ((1, 1), (2, 3, 4, 5)),
)
COMPARISONS = ("EQUAL", "NOT_EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL")
FUSED = ("RELU", "RELU6", "RELU_N1_TO_1")


@grid(
    "ADD",
    "SUB",
    "MUL",
    "DIV",
    "MAXIMUM",
    "MINIMUM",
    "SQUARED_DIFFERENCE",
    *COMPARISONS,
    "FLOOR_DIV",
    "FLOOR_MOD",
    "POW",
    "LOGICAL_AND",
    "LOGICAL_OR",
    "ATAN2",
    "BITWISE_XOR",
    "RIGHT_SHIFT",
    forms=EVERY,
)
def _binary(op: str, dtype: str) -> Entries:
    if op.startswith("LOGICAL") and dtype != "bool":
        return
    fuses = op in ("ADD", "SUB", "MUL", "DIV")
    plain = {"fused_activation_function": "NONE"} if fuses else {}
    picks = operators.lookup(op).picks
    first, other = params(dtype), params(dtype, 0.05 if op in ("MAXIMUM", "MINIMUM") else 0.02, 3 if picks else -7)
    gives = "bool" if op in COMPARISONS else dtype
    result = None if op in COMPARISONS else first if op in ("MAXIMUM", "MINIMUM") else params(dtype, 0.08, -2)
    positive = op in ("DIV", "FLOOR_DIV", "FLOOR_MOD", "POW")

    def case(left: tuple[int, ...], right: tuple[int, ...], fixed: str = "", attrs: object = None):
        made = built(op, dtype, {**plain, **(attrs or {})})
        x = values(left, dtype, "x", positive=op == "POW")
        z = values(right, dtype, "z", positive=positive)
        if op == "POW" and dtype != "float32":
            x, z = x % 5, z % 4
        operand(made, "x", x, first, constant=fixed == "left")
        operand(made, "z", z, other, constant=fixed == "right")
        return made.gives(gives, result)

    for left, right in PAIRS:
        yield f"{list(left)} and {list(right)}", case(left, right)
    for fixed in ("left", "right"):
        for left, right in ((SHAPES[4], SHAPES[4]), (SHAPES[4], ()), (SHAPES[4], (5,)), (SHAPES[6], SHAPES[6])):
            left, right = (right, left) if fixed == "left" else (left, right)
            yield f"{list(left)} and {list(right)}, {fixed} constant", case(left, right, fixed)
    if fuses:
        for fused in FUSED:
            yield fused, case(SHAPES[4], SHAPES[4], attrs={"fused_activation_function": fused})
    if dtype in QUANTIZED:
        x, z = values(SHAPES[4], dtype, "x"), values(SHAPES[4], dtype, "z", positive=positive)
        for scale in (0.05, 0.5, 0.003):
            made = built(op, dtype, plain).fed("x", x, first).fed("z", z, params(dtype, scale, 3))
            yield f"scales 0.05 and {scale}", made.gives(gives, None if op in COMPARISONS else params(dtype, 0.08, -2))


@grid(
    "ABS",
    "NEG",
    "EXP",
    "LOG",
    "SQRT",
    "RSQRT",
    "SQUARE",
    "SIN",
    "COS",
    "FLOOR",
    "CEIL",
    "ROUND",
    "SIGN",
    "RELU",
    "RELU6",
    "RELU_N1_TO_1",
    "RELU_0_TO_1",
    "ELU",
    "TANH",
    "LOGISTIC",
    "HARD_SWISH",
    "GELU",
    "LEAKY_RELU",
    "SOFTMAX",
    "LOG_SOFTMAX",
    "L2_NORMALIZATION",
    "ZEROS_LIKE",
    "LOGICAL_NOT",
    "PRELU",
    forms=EVERY,
)
def _unary(op: str, dtype: str) -> Entries:
    attrs = {
        "LEAKY_RELU": {"alpha": 0.2},
        "SOFTMAX": {"beta": 1.0},
        "GELU": {"approximate": False},
        "L2_NORMALIZATION": {"fused_activation_function": "NONE"},
    }.get(op, {})
    positive = op in ("LOG", "SQRT", "RSQRT")
    record = operators.lookup(op)
    fixed = record.fixed_output.get(dtype)
    first = params(dtype, 0.05, -128 if positive else 3)

    def case(shape, result, more=None, alpha=None):
        made = built(op, dtype, {**attrs, **(more or {})})
        made.fed("x", values(shape, dtype, op, positive=positive and dtype in ("float32", "int16")), first)
        if op == "PRELU":
            slope = alpha if alpha is not None else shape[-1:]
            made.constant("alpha", values(slope, dtype, "alpha"), params(dtype, 0.01, 0))
        return made.gives(dtype, result)

    other = params(dtype, 0.09, -2)
    if fixed is not None:
        other = QuantParams(dtype, (fixed[0],), (fixed[1],))
    has_rows = op in ("SOFTMAX", "LOG_SOFTMAX", "L2_NORMALIZATION")
    for shape in SHAPES[1:] if has_rows and op != "SOFTMAX" else SHAPES:
        yield f"{list(shape)}", case(shape, other)
    if dtype in QUANTIZED and op != "L2_NORMALIZATION":
        yield "scale in = scale out", case(SHAPES[4], first)
        yield "other scale", case(SHAPES[4], params(dtype, 0.03, 5))
    if op == "SOFTMAX":
        yield "beta 0.5", case((2, 9), other, {"beta": 0.5})
        for classes in (511, 512, 1000):  # all of the same score
            made = case((1, classes), other)
            made.feeds["x"][:] = 1
            yield f"{classes} classes", made
    if op == "PRELU":
        for alpha in ((1,), (1, 1, 5), (3, 4, 5), (1, 1, 1, 5)):
            yield f"alpha {list(alpha)}", case((1, 3, 4, 5), other, alpha=alpha)
    if op == "GELU":
        yield "approximate", case(SHAPES[4], other, {"approximate": True})


@grid("ADD_N", forms=EVERY)
def _sum_of_all(op: str, dtype: str) -> Entries:
    for count in (2, 5):
        made = built(op, dtype)
        for position in range(count):
            made.fed(f"x{position}", values((1, 3, 5), dtype, str(position)), params(dtype))
        yield f"{count} inputs", made.gives(dtype, params(dtype, 0.2))


@grid("SELECT", "SELECT_V2", forms=EVERY)
def _select(op: str, dtype: str) -> Entries:
    triples = [(shape, shape, shape) for shape in SHAPES]
    triples += [
        ((2,), (2, 5), (2, 5)) if op == "SELECT" else ((5,), (2, 3, 4, 5), (2, 3, 4, 5)),
        ((2, 3, 4, 5), (), (2, 3, 4, 5)),
        ((2, 3, 4, 5), (2, 3, 4, 5), ()),
        ((2, 1, 4, 1), (1, 3, 1, 5), (2, 3, 4, 5)),
        ((1, 2, 1, 3, 2), (1, 2, 2, 3, 2), ()),
    ]
    for condition, x, z in triples:
        for fixed in ("", "right") if len(x) == 4 else ("",):
            made = (
                built(op, dtype)
                .fed("c", values(condition, "bool"), None)
                .fed("x", values(x, dtype, "x"), params(dtype))
            )
            operand(made, "z", values(z, dtype, "z"), params(dtype), constant=bool(fixed))
            yield (
                f"{list(condition)}, {list(x)}, {list(z)}{', constant' if fixed else ''}",
                made.gives(dtype, params(dtype)),
            )
    if dtype in QUANTIZED:
        made = (
            built(op, dtype)
            .fed("c", values(SHAPES[4], "bool"), None)
            .fed("x", values(SHAPES[4], dtype, "x"), params(dtype))
        )
        made.fed("z", values(SHAPES[4], dtype, "z"), params(dtype, 0.09))
        yield "other scales", made.gives(dtype, params(dtype, 0.1))


CODES = {"float32": 0, "int32": 2, "uint8": 3, "int64": 4, "bool": 6, "int16": 7, "int8": 9}


@grid("CAST", forms=(*EVERY, "uint8"))
def _cast(op: str, dtype: str) -> Entries:
    for result in CODES:
        x = np.clip(values((2, 7), dtype) if dtype != "uint8" else values((2, 7), "int32") % 100, 0, 120).astype(dtype)
        made = built(op, dtype, {"in_data_type": CODES[dtype], "out_data_type": CODES[result]})
        yield f"to {result}", made.fed("x", x, None).gives(result, None)


@grid("QUANTIZE", forms=("float32", "int8", "int16", "int32", "uint8"))
def _quantize(op: str, dtype: str) -> Entries:
    for result in ("int8", "int16", "uint8", "int32", "int4"):
        if result == "int4" or "uint8" in (dtype, result):
            continue
        out = params(result, 0.09, -2) or QuantParams("int32", (0.001,), (0,))
        quant = params(dtype) if dtype != "int32" else QuantParams("int32", (0.001,), (0,))
        for shape in ((7,), (1, 3, 4, 5), (2, 1, 3, 2, 4)):
            yield (
                f"{list(shape)} to {result}",
                built(op, dtype).fed("x", values(shape, dtype), quant).gives(result, out),
            )


@grid("DEQUANTIZE", forms=("int8", "int16", "int32", "float16"))
def _dequantize(op: str, dtype: str) -> Entries:
    for shape in ((7,), (1, 3, 4, 5), (2, 1, 3, 2, 4)):
        x = values(shape, "float32").astype(np.float16) if dtype == "float16" else values(shape, dtype)
        quant = QuantParams("int32", (0.001,), (0,)) if dtype == "int32" else params(dtype)
        yield f"{list(shape)}", built(op, dtype).fed("x", x, quant).gives("float32", None)
        if dtype == "int8":
            scales = tuple(0.01 * (i + 1) for i in range(shape[-1]))
            channels = QuantParams("int8", scales, (0,) * len(scales), len(shape) - 1)
            yield (
                f"{list(shape)}, a scale per channel",
                built(op, dtype).constant("x", x, channels).gives("float32", None),
            )
