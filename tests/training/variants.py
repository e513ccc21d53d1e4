"""Operators with options other than the usual ones: strides, dilations, groups, windows, modes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tests.building import ints, model_of, weights

from featherweight.graph import Model

VARIANTS: dict[str, Callable[[], Model]] = {}
_WINDOW = {"stride_h": 1, "stride_w": 1, "dilation_h_factor": 1, "dilation_w_factor": 1, "padding": "SAME"}


def _add(
    name: str, op: str, constants: dict[str, np.ndarray], out: tuple[int, ...], x: tuple[int, ...], **attrs: Any
) -> None:
    VARIANTS[name] = lambda: model_of(op, {"x": x, **constants}, {"y": out}, **attrs)


def _outputs(extent: int, attrs: dict[str, Any]) -> tuple[int, int]:
    sizes: list[int] = []
    for axis in "hw":
        stride, reach = attrs[f"stride_{axis}"], 2 * attrs[f"dilation_{axis}_factor"] + 1
        sizes.append(-(-extent // stride) if attrs["padding"] == "SAME" else (extent - reach) // stride + 1)
    return sizes[0], sizes[1]


for _name, _changed in {
    "tall strides": {"stride_h": 2},
    "strides": {"stride_h": 2, "stride_w": 2},
    "dilations": {"dilation_h_factor": 2, "dilation_w_factor": 3},
    "valid": {"padding": "VALID", "dilation_h_factor": 2},
}.items():
    _attrs = {**_WINDOW, **_changed, "fused_activation_function": "RELU6"}
    _size = _outputs(9, _attrs)
    _weights = {"w": weights(1, 3, 3, 8), "b": weights(8)}
    _more = {"depth_multiplier": 2, **_attrs}
    _add(f"depthwise, {_name}", "DEPTHWISE_CONV_2D", _weights, (1, *_size, 8), (1, 9, 9, 4), **_more)
    _weights = {"w": weights(4, 3, 3, 8), "b": weights(4)}
    _add(f"convolution, {_name}", "CONV_2D", _weights, (1, *_size, 4), (1, 9, 9, 8), **_attrs)
_weights = {"w": weights(8, 3, 3, 2), "b": weights(8)}
_add("grouped convolution", "CONV_2D", _weights, (1, 9, 9, 8), (1, 9, 9, 4), **_WINDOW)
_add(
    "convolution over time",
    "CONV_3D",
    {"w": weights(3, 3, 3, 2, 4), "b": weights(4)},
    (1, 4, 4, 4, 4),
    (1, 4, 4, 4, 2),
    stride_d=1,
    dilation_d_factor=1,
    **_WINDOW,
)
_pool = {"filter_height": 3, "filter_width": 2, "stride_h": 2, "stride_w": 1, "padding": "SAME"}
for _op in ("AVERAGE_POOL_2D", "MAX_POOL_2D"):
    _add(f"{_op} with padding", _op, {}, (1, 5, 9, 4), (1, 9, 9, 4), **_pool)
for _op in ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"):
    for _align, _half in ((False, False), (True, False), (False, True)):
        for _sizes in ((9, 13), (3, 2)):
            _modes = {"align_corners": _align, "half_pixel_centers": _half}
            _sized = {"s": ints(*_sizes)}
            _add(f"{_op} to {_sizes}, {_align}, {_half}", _op, _sized, (1, *_sizes, 4), (1, 5, 6, 4), **_modes)
_sliced = {"begin_mask": 1, "end_mask": 1}
_span = {"b": ints(0, -1, 0), "e": ints(0, -7, 5), "s": ints(1, -2, 2)}
_add("slice from behind", "STRIDED_SLICE", _span, (1, 3, 3), (1, 6, 6), **_sliced)
_span = {"b": ints(0, 2, 0), "e": ints(0, 3, 5), "s": ints(1, 1, 2)}
_add("slice without an axis", "STRIDED_SLICE", _span, (1, 3), (1, 6, 6), **_sliced, shrink_axis_mask=2)
_axis = {"a": ints(1).reshape(())}
_add("sum from behind", "CUMSUM", _axis, (1, 6, 4), (1, 6, 4), exclusive=True, reverse=True)
_around = {"p": ints(0, 0, 1, 2, 2, 1).reshape(3, 2)}
_add("mirror with its edge", "MIRROR_PAD", _around, (1, 9, 9), (1, 6, 6), mode=1)
