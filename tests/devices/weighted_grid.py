"""Operators with weights, matrix products and pools."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from tests.devices.grid import Entries, built, grid, ints, operand, params, values

from featherweight.graph import constant
from featherweight.graph.numerics import QuantParams

FORMS = ("int8*int8", "int16*int8", "int8*int4", "int16*int4", "float32", "float32*int8", "float32*int4")
ONE = {"stride_h": 1, "stride_w": 1, "padding": "SAME"}
DILATED = {"dilation_h_factor": 1, "dilation_w_factor": 1}
BASE = {**ONE, **DILATED, "fused_activation_function": "NONE"}
STRIDES = ((1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (1, 2), (2, 1), (1, 4), (4, 1), (2, 3))
FUSED = ("RELU", "RELU6", "RELU_N1_TO_1")


def _weights(made, form: str, shape, axis, *, per_channel=True, bias=True, computed=False, wide=True, position=None):
    """Adds x's companions: a weight in the form's type, and a bias in what goes with it."""
    activation, _, dtype = form.partition("*")
    dtype = dtype or "float32"
    x = made.tensors[-1]
    count = shape[axis]
    scales = tuple(float(np.float32(0.01 + 0.001 * i)) for i in range(count if per_channel else 1))
    quant = (
        None if dtype == "float32" else QuantParams(dtype, scales, (0,) * len(scales), axis if per_channel else None)
    )
    array = values(shape, dtype, "w")
    array = array * np.float32(0.3) if dtype == "float32" else np.clip(array, -7 if dtype == "int4" else -127, 127)
    if computed:
        made.fed("w", array, replace(quant, dtype="int8") if quant else None)
    else:
        made.constant("w", array, quant, None if dtype == "float32" else dtype)
    if bias:
        if activation == "float32":
            made.constant("b", values((count,), "float32", "b"))
        else:
            kind = "int64" if activation == "int16" and wide else "int32"
            unit = x.quant.scale[0]
            b = QuantParams(kind, tuple(unit * s for s in scales), (0,) * len(scales), 0 if per_channel else None)
            made.constant("b", (values((count,), "int32", "b") * 20).astype(kind), b)
    return made.gives(activation, params(activation, 0.4, -3))


def _conv(form: str, op: str, attrs: dict[str, Any], x, weight, axis=0, **more: Any):
    activation = form.split("*")[0]
    made = built(op, form, {**BASE, **attrs})
    made.fed("x", values(x, activation, "x"), params(activation))
    return _weights(made, form, weight, axis, **more)


@grid("CONV_2D", forms=FORMS)
def _conv_2d(op: str, form: str) -> Entries:
    x, w = (1, 12, 12, 4), (6, 3, 3, 4)
    for padding in ("SAME", "VALID"):
        for height, width in STRIDES:
            attrs = {"stride_h": height, "stride_w": width, "padding": padding}
            yield f"stride {height}x{width} {padding}", _conv(form, op, attrs, x, w)
        for height, width in ((2, 2), (3, 3), (1, 2), (2, 1)):
            attrs = {"dilation_h_factor": height, "dilation_w_factor": width, "padding": padding}
            yield f"dilation {height}x{width} {padding}", _conv(form, op, attrs, x, w)
        for kernel in ((1, 1), (1, 3), (3, 1), (2, 2), (5, 5), (7, 7), (1, 12), (11, 11)):
            yield f"kernel {kernel} {padding}", _conv(form, op, {"padding": padding}, x, (6, *kernel, 4))
        attrs = {"stride_h": 4, "stride_w": 4, "dilation_h_factor": 2, "dilation_w_factor": 2, "padding": padding}
        yield f"stride 4 dilation 2 {padding}", _conv(form, op, attrs, x, w)
        yield (
            f"stride 4, one output {padding}",
            _conv(form, op, {"stride_h": 4, "stride_w": 4, "padding": padding}, (1, 3, 3, 4), w),
        )
    for fused in FUSED:
        yield fused, _conv(form, op, {"fused_activation_function": fused}, x, w)
    yield "no bias", _conv(form, op, {}, x, w, bias=False)
    yield "one scale", _conv(form, op, {}, x, w, per_channel=False)
    yield "groups", _conv(form, op, {}, (1, 12, 12, 8), w)
    yield "odd channels", _conv(form, op, {}, (1, 12, 12, 3), (5, 3, 3, 3))
    yield "one output", _conv(form, op, {}, x, (1, 3, 3, 4))
    for batch in (2, 3):
        yield f"batch {batch}", _conv(form, op, {}, (batch, 12, 12, 4), w)
    yield "tall kernel", _conv(form, op, {"padding": "VALID"}, (1, 300, 2, 1), (2, 257, 2, 1))
    yield "large", _conv(form, op, {}, (1, 33, 17, 16), (32, 3, 3, 16))
    if "int" in form and not form.endswith("int4"):
        yield "computed weight", _conv(form, op, {}, x, w, computed=True)
    if form.startswith("int16"):
        yield "int32 bias", _conv(form, op, {}, x, w, wide=False)


@grid("DEPTHWISE_CONV_2D", forms=FORMS)
def _depthwise(op: str, form: str) -> Entries:
    x, w, once = (1, 12, 12, 4), (1, 3, 3, 4), {"depth_multiplier": 1}
    for padding in ("SAME", "VALID"):
        for height, width in STRIDES:
            attrs = {**once, "stride_h": height, "stride_w": width, "padding": padding}
            yield f"stride {height}x{width} {padding}", _conv(form, op, attrs, x, w, 3)
        for height, width in ((2, 2), (3, 3), (1, 2), (2, 1)):
            attrs = {**once, "dilation_h_factor": height, "dilation_w_factor": width, "padding": padding}
            yield f"dilation {height}x{width} {padding}", _conv(form, op, attrs, x, w, 3)
        for kernel in ((1, 1), (1, 3), (3, 1), (2, 2), (5, 5), (7, 7), (1, 12), (11, 11)):
            yield f"kernel {kernel} {padding}", _conv(form, op, {**once, "padding": padding}, x, (1, *kernel, 4), 3)
    for fused in FUSED:
        yield fused, _conv(form, op, {**once, "fused_activation_function": fused}, x, w, 3)
    yield "no bias", _conv(form, op, once, x, w, 3, bias=False)
    yield "one scale", _conv(form, op, once, x, w, 3, per_channel=False)
    for channels, multiplier in ((4, 2), (1, 8), (3, 3), (1, 1), (5, 1)):
        attrs = {"depth_multiplier": multiplier}
        yield (
            f"{channels} channels times {multiplier}",
            _conv(form, op, attrs, (1, 8, 8, channels), (1, 3, 3, channels * multiplier), 3),
        )
        attrs = {"depth_multiplier": multiplier, "stride_h": 2, "stride_w": 2, "padding": "VALID"}
        yield (
            f"{channels} channels times {multiplier}, stride 2",
            _conv(form, op, attrs, (1, 8, 8, channels), (1, 3, 3, channels * multiplier), 3),
        )
    for batch in (2, 3):
        yield f"batch {batch}", _conv(form, op, once, (batch, 12, 12, 4), w, 3)
    if "int" in form and not form.endswith("int4"):
        yield "computed weight", _conv(form, op, once, x, w, 3, computed=True)
    if form.startswith("int16"):
        yield "int32 bias", _conv(form, op, once, x, w, 3, wide=False)


@grid("TRANSPOSE_CONV", forms=FORMS)
def _transposed(op: str, form: str) -> Entries:
    activation = form.split("*")[0]

    def case(stride=(2, 2), kernel=(3, 3), padding="SAME", size=(1, 5, 5, 4), out=3, given=None, fused="NONE", **more):
        attrs = {"stride_h": stride[0], "stride_w": stride[1], "padding": padding, "fused_activation_function": fused}
        made = built(op, form, attrs).fed("x", values(size, activation, "x"), params(activation))
        _weights(made, form, (out, *kernel, size[3]), 0, **more)
        x, w, *b = made.tensors
        spread = [
            n * s if padding == "SAME" else (n - 1) * s + max(k, s)
            for n, s, k in zip(size[1:3], stride, kernel, strict=True)
        ]
        shape = given or (size[0], *spread, out)
        made.tensors = [constant("size", ints(*shape)), w, x, *b]
        return made

    for padding in ("SAME", "VALID"):
        for stride in ((1, 1), (2, 2), (3, 3), (4, 4), (1, 2), (2, 1)):
            yield f"stride {stride} {padding}", case(stride, padding=padding)
        for kernel in ((1, 1), (2, 2), (1, 3), (4, 4), (5, 5)):
            yield f"kernel {kernel} {padding}", case(kernel=kernel, padding=padding)
    yield "stride 1x2, width 1", case((1, 2), (3, 1), size=(1, 5, 1, 4))
    yield "stride 2x1, height 1", case((2, 1), (1, 3), size=(1, 1, 5, 4))
    yield "stride 1x2, height 1", case((1, 2), (1, 3), size=(1, 1, 5, 4))
    yield "stride 2x1, width 1", case((2, 1), (3, 1), size=(1, 5, 1, 4))
    yield "9 of 5 (output padding)", case(given=(1, 9, 9, 3))
    yield "no bias", case(bias=False)
    yield "one scale", case(per_channel=False)
    yield "RELU", case(fused="RELU")
    yield "batch 2", case(size=(2, 5, 5, 4))
    if form.startswith("int16"):
        yield "int32 bias", case(wide=False)


@grid("FULLY_CONNECTED", forms=FORMS)
def _dense(op: str, form: str) -> Entries:
    activation = form.split("*")[0]

    def case(size=(1, 16), out=6, keep=False, fused="NONE", weight=None, hybrid=True, **more):
        attrs = {"fused_activation_function": fused, "keep_num_dims": keep, "asymmetric_quantize_inputs": hybrid}
        made = built(op, form, attrs).fed("x", values(size, activation, "x"), params(activation))
        shape = weight or (out, size[-1])
        return _weights(made, form, shape, 0, **more)

    for size in ((16,), (1, 16), (4, 16), (2, 3, 16), (1, 2, 3, 16), (2, 2, 3, 16), (1, 2, 2, 3, 16)):
        for keep in (False, True):
            if len(size) > 1 or not keep:
                yield f"{list(size)}{', dimensions kept' if keep else ''}", case(size, keep=keep)
    yield "flattened [1, 4, 4]", case((1, 4, 4), weight=(6, 16))
    yield "flattened [2, 2, 2, 4]", case((2, 2, 2, 4), weight=(6, 16))
    for fused in FUSED:
        yield fused, case(fused=fused)
    yield "no bias", case(bias=False)
    yield "one scale", case(per_channel=False)
    yield "one scale, no bias", case(per_channel=False, bias=False)
    yield "depth 15", case((2, 15))
    yield "depth 1", case((2, 1))
    yield "one output", case(out=1)
    if "int" in form and not form.endswith("int4"):
        yield "computed weight", case(computed=True, per_channel=False)
        yield "computed weight and scales", case(computed=True)
    if form.startswith("int16"):
        yield "int32 bias", case(wide=False)
    if form.startswith("float32*"):
        yield "symmetric", case(hybrid=False)


@grid("BATCH_MATMUL", forms=("int8", "int16", "float32", "float32*int8"))
def _product(op: str, form: str) -> Entries:
    activation, _, weight = form.partition("*")
    pairs = (
        ((3, 8), (8, 5)),
        ((1, 8), (8, 1)),
        ((2, 3, 8), (2, 8, 5)),
        ((1, 2, 3, 8), (1, 2, 8, 5)),
        ((2, 2, 3, 8), (2, 2, 8, 5)),
        ((2, 1, 2, 3, 8), (2, 1, 2, 8, 5)),
        ((2, 3, 8), (1, 8, 5)),
        ((1, 3, 8), (2, 8, 5)),
        ((2, 3, 8), (8, 5)),
        ((3, 8), (2, 8, 5)),
        ((2, 1, 3, 8), (1, 2, 8, 5)),
        ((1, 2, 1, 2, 3, 8), (1, 2, 1, 2, 8, 5)),
    )

    def case(x, z, attrs=None, fixed=""):
        made = built(op, form, {"adj_x": False, "adj_y": False, "asymmetric_quantize_inputs": True, **(attrs or {})})
        operand(made, "x", values(x, activation, "x"), params(activation), constant=fixed == "left")
        quant = QuantParams("int8", (0.02,), (0,)) if weight else params(activation, 0.02, 0 if fixed else -4)
        operand(made, "z", values(z, weight or activation, "z"), quant, constant=fixed == "right" or bool(weight))
        return made.gives(activation, params(activation, 0.2, 1))

    for x, z in pairs:
        yield f"{list(x)} {list(z)}", case(x, z)
    for fixed in ("left", "right"):
        yield f"{fixed} constant", case((2, 3, 8), (2, 8, 5), fixed=fixed)
        yield f"{fixed} constant, two dimensions", case((2, 3, 8), (8, 5), fixed=fixed)
    yield "adj_x", case((2, 8, 3), (2, 8, 5), {"adj_x": True})
    yield "adj_y", case((2, 3, 8), (2, 5, 8), {"adj_y": True})
    yield "adj_x and adj_y", case((2, 8, 3), (2, 5, 8), {"adj_x": True, "adj_y": True})
    yield "adj_y, right constant", case((2, 3, 8), (2, 5, 8), {"adj_y": True}, "right")


@grid("AVERAGE_POOL_2D", "MAX_POOL_2D", "L2_POOL_2D", forms=("int8", "int16", "float32"))
def _pool(op: str, dtype: str) -> Entries:
    def case(window=(2, 2), stride=(2, 2), padding="VALID", size=(1, 12, 12, 5), fused="NONE", quant=None):
        attrs = {
            "filter_height": window[0],
            "filter_width": window[1],
            "stride_h": stride[0],
            "stride_w": stride[1],
            "padding": padding,
            "fused_activation_function": fused,
        }
        return built(op, dtype, attrs).fed("x", values(size, dtype), params(dtype)).gives(dtype, quant or params(dtype))

    for padding in ("SAME", "VALID"):
        for stride in STRIDES:
            yield f"stride {stride} {padding}", case(stride=stride, padding=padding)
        for window in ((1, 1), (1, 2), (3, 3), (7, 7), (8, 8), (8, 9), (9, 9), (12, 12)):
            yield f"window {window} {padding}", case(window, (1, 1), padding)
        yield f"all {padding}", case((12, 12), (12, 12), padding)
        yield f"tall {padding}", case((257, 1), (1, 1), padding, (1, 300, 2, 1))
        yield f"256 {padding}", case((256, 1), (1, 1), padding, (1, 300, 2, 1))
        yield f"wide {padding}", case((1, 300), (1, 1), padding, (1, 2, 301, 1))
        yield f"stride 4, one output {padding}", case((3, 3), (4, 4), padding, (1, 3, 3, 2))
    for fused in FUSED:
        yield fused, case(fused=fused)
    for batch in (2, 3):
        yield f"batch {batch}", case(size=(batch, 6, 6, 5))
    if dtype != "float32":
        yield "other scales", case(quant=params(dtype, 0.08))
