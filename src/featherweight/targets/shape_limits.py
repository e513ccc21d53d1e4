"""Limits of devices in where an operator looks: windows, strides, axes and sizes."""

from __future__ import annotations

import math

from featherweight import operators
from featherweight.graph import Graph, Node
from featherweight.operators.geometry import Pair, Window
from featherweight.targets.constraints import Limits, constraint_check, weight_of
from featherweight.targets.operand_limits import indices_of


def _pair(node: Node, kind: str, default: int = 1) -> Pair:
    names = {"stride": ("stride_h", "stride_w"), "dilation": ("dilation_h_factor", "dilation_w_factor"),
             "filter": ("filter_height", "filter_width")}[kind]  # fmt: skip
    return int(node.attrs.get(names[0], default)), int(node.attrs.get(names[1], default))


def _window(node: Node, graph: Graph) -> Window | None:
    """Returns how a convolution or pool slides over its input, None for other operators."""
    weight = weight_of(node, graph)
    shape = graph.tensors[operators.lookup(node.op).input_of(node, operators.lookup(node.op).activation)].shape
    if "filter_height" in node.attrs:
        size = _pair(node, "filter")
    elif weight is not None and len(weight.shape) == 4:
        size = weight.shape[1], weight.shape[2]
    else:
        return None
    if len(shape) != 4:
        return None
    padding = str(node.attrs.get("padding", "SAME")).lower()
    return Window.over((shape[1], shape[2]), size, _pair(node, "stride"), _pair(node, "dilation"), padding)


def _is_padded(window: Window) -> bool:
    return any(sum(part) for part in window.pad)


@constraint_check(optional=("max_padded", "max_height", "max_product"))
def _check_kernel(node: Node, graph: Graph, limits: Limits) -> str | None:
    window = _window(node, graph)
    if window is None:
        return None
    height, width = ((taps - 1) * step + 1 for taps, step in zip(window.size, window.dilation, strict=True))
    if "max_padded" in limits and _is_padded(window):
        is_large, where = max(height, width) > limits["max_padded"], " and reaches over the border"
    else:
        most, area = limits.get("max_height", height), limits.get("max_product", height * width)
        is_large, where = height > most or height * width > area, ""
    return f"its kernel is {height}×{width}{where}" if is_large else None


@constraint_check()
def _check_elements(node: Node, graph: Graph, limits: Limits) -> str | None:
    names = (name for name in (*node.inputs, *node.outputs) if name and not graph.tensors[name].is_constant)
    empty = next((name for name in names if 0 in graph.tensors[name].shape), None)
    return None if empty is None else f"'{empty}' has the shape {list(graph.tensors[empty].shape)}"


@constraint_check("max")
def _check_stride(node: Node, graph: Graph, limits: Limits) -> str | None:
    height, width = _pair(node, "stride")
    return f"its stride is {height}×{width}" if max(height, width) > limits["max"] else None


@constraint_check("max")
def _check_unrolled_stride(node: Node, graph: Graph, limits: Limits) -> str | None:
    window = _window(node, graph)
    if window is None or all(s <= limits["max"] or o == 1 for s, o in zip(window.stride, window.out, strict=True)):
        return None
    if not _is_padded(window) and window.dilation == (1, 1):
        return None
    padded, dilated = "a padding" if _is_padded(window) else "", "a dilation" if window.dilation != (1, 1) else ""
    return f"its stride is {window.stride[0]}×{window.stride[1]}, with {' and '.join(filter(None, (padded, dilated)))}"


@constraint_check()
def _check_transposed_stride(node: Node, graph: Graph, limits: Limits) -> str | None:
    height, width = _pair(node, "stride")
    shape, weight = graph.tensors[node.inputs[operators.lookup(node.op).activation]].shape, weight_of(node, graph)
    if weight is None or len(shape) != 4 or (height, width) in ((1, 1), (2, 2)):
        return None
    is_line = (height, width) == (2, 1) and shape[2] == weight.shape[2] == 1
    is_line |= (height, width) == (1, 2) and shape[1] == weight.shape[1] == 1
    return None if is_line else f"its stride is {height}×{width}"


@constraint_check()
def _check_transposed_shape(node: Node, graph: Graph, limits: Limits) -> str | None:
    x, weight = graph.tensors[node.inputs[operators.lookup(node.op).activation]].shape, weight_of(node, graph)
    y, strides = graph.tensors[node.outputs[0]].shape, _pair(node, "stride")
    if weight is None or len(x) != 4:
        return None
    is_same = str(node.attrs.get("padding")) == "SAME"
    more = (0, 0) if is_same else [max(k - s, 0) for k, s in zip(weight.shape[1:3], strides, strict=True)]
    usual = tuple(n * s + m for n, s, m in zip(x[1:3], strides, more, strict=True))
    return None if tuple(y[1:3]) == usual else f"its result is {y[1]}×{y[2]} instead of {usual[0]}×{usual[1]}"


@constraint_check("max")
def _check_depth(node: Node, graph: Graph, limits: Limits) -> str | None:
    depth = (graph.tensors[node.inputs[0]].shape or (1,))[-1]
    return f"its depth is {depth}" if depth > limits["max"] else None


@constraint_check()
def _check_one_image(node: Node, graph: Graph, limits: Limits) -> str | None:
    shape = graph.tensors[node.inputs[0]].shape
    return f"it has {math.prod(shape[:-3])} images" if math.prod(shape[:-3]) > 1 else None


@constraint_check()
def _check_unit_batch(node: Node, graph: Graph, limits: Limits) -> str | None:
    batch = (1, 1, 1, 1, *graph.tensors[node.inputs[0]].shape)[-4]
    return f"its batch is {batch}" if batch > 1 else None


@constraint_check()
def _check_neighbours_swapped(node: Node, graph: Graph, limits: Limits) -> str | None:
    order, shape = _axes(node, graph), graph.tensors[node.inputs[0]].shape
    before = max(4 - len(order), 0)
    order = (*range(before), *(axis % len(shape) + before for axis in order))
    is_known = order in ((0, 1, 2, 3), (0, 1, 3, 2)) or (order == (0, 2, 1, 3) and (1, *shape)[-4] == 1)
    return None if is_known else f"its order is {list(order[before:])}"


def _axes(node: Node, graph: Graph) -> tuple[int, ...]:
    """Returns the constant axes that an operator works along, as they are written."""
    arrays = [tensor.array for tensor in indices_of(node, graph)[-1:] if tensor.is_constant]
    return tuple(int(axis) for array in arrays if array is not None for axis in array.reshape(-1))


@constraint_check()
def _check_last_axis(node: Node, graph: Graph, limits: Limits) -> str | None:
    rank = len(graph.tensors[node.inputs[0]].shape)
    wrong = [axis for axis in _axes(node, graph) if axis not in (-1, rank - 1)]
    return f"it works along axis {wrong[0]} of {rank}" if wrong else None


@constraint_check()
def _check_first_axis_is_counted_up(node: Node, graph: Graph, limits: Limits) -> str | None:
    rank = max(len(graph.tensors[name].shape) for name in node.inputs if name)
    return f"its axis is -{rank}" if -rank in _axes(node, graph) else None


@constraint_check("max")
def _check_reduced(node: Node, graph: Graph, limits: Limits) -> str | None:
    shape = graph.tensors[node.inputs[0]].shape
    large = next((axis for axis in _axes(node, graph) if shape[axis] > limits["max"]), None)
    return None if large is None else f"it reduces {shape[large]} values along axis {large}"


@constraint_check()
def _check_reduced_depth(node: Node, graph: Graph, limits: Limits) -> str | None:
    shape = (1, 1, 1, *graph.tensors[node.inputs[0]].shape)
    is_deep = any(axis in (-1, len(shape) - 4) for axis in _axes(node, graph))
    return f"it reduces the depth of {list(shape[-3:])}" if is_deep and 1 not in shape[-3:] else None


@constraint_check("max")
def _check_axis(node: Node, graph: Graph, limits: Limits) -> str | None:
    rank = len(graph.tensors[node.inputs[0]].shape)
    far = next((axis for axis in _axes(node, graph) if axis % max(rank, 1) > limits["max"]), None)
    return None if far is None else f"it works along axis {far} of {rank}"


@constraint_check("max")
def _check_area(node: Node, graph: Graph, limits: Limits) -> str | None:
    shape = graph.tensors[node.inputs[0]].shape
    area = math.prod(shape[-3:-1])
    return f"its input has {area} rows and columns" if area > limits["max"] else None


def _factors(node: Node, graph: Graph) -> tuple[list[float], Pair, Pair]:
    """Returns by how much an image grows along (height, width), and its sizes before and after."""
    before, after = (graph.tensors[name].shape[1:3] for name in (node.inputs[0], node.outputs[0]))
    sizes = [(float(n), float(m)) for n, m in zip(before, after, strict=True)]
    if node.attrs.get("align_corners"):
        sizes = [(n - 1, m - 1) if m > 1 else (1.0, 1.0) for n, m in sizes]
    return [m / n if n else math.inf for n, m in sizes], (before[0], before[1]), (after[0], after[1])


@constraint_check("max", "max_halved")
def _check_equal_growth(node: Node, graph: Graph, limits: Limits) -> str | None:
    factors, before, after = _factors(node, graph)
    halved = bool(node.attrs.get("half_pixel_centers")) and limits["max_halved"] != limits["max"]
    if before == (1, 1) or (before == after and not halved):
        return None
    found = f"it brings {before[0]}×{before[1]} to {after[0]}×{after[1]}"
    is_line = any(size == 1 and factor == 1 for size, factor in zip(after, factors, strict=True))
    if factors[0] != factors[1] and (halved or not is_line):
        return found
    largest = max(factors)
    is_right = largest > 1 and largest.is_integer() and int(largest).bit_count() == 1
    return None if is_right and largest <= limits["max_halved" if halved else "max"] else found


@constraint_check()
def _check_whole_growth(node: Node, graph: Graph, limits: Limits) -> str | None:
    before, after = (graph.tensors[name].shape[1:3] for name in (node.inputs[0], node.outputs[0]))
    if tuple(before) == (1, 1):
        return None
    less = [1 if node.attrs.get("align_corners") and n > 1 else 0 for n in before]
    for n, m, one in zip(before, after, less, strict=True):
        times, rest = divmod(m - one, n - one)
        if rest or times.bit_count() != 1:
            return f"it brings {before[0]}×{before[1]} to {after[0]}×{after[1]}"
    return None


@constraint_check()
def _check_inner_steps(node: Node, graph: Graph, limits: Limits) -> str | None:
    steps = _axes(node, graph)
    if any(step < 0 for step in steps):
        return f"its strides are {list(steps)}"
    rank = len(graph.tensors[node.inputs[0]].shape)
    outer = [step for at, step in enumerate(steps) if at - rank not in (-3, -2)]
    return f"its strides are {list(steps)}" if any(step != 1 for step in outer) else None


@constraint_check()
def _check_axis_is_batch(node: Node, graph: Graph, limits: Limits) -> str | None:
    axis, batches = int(node.attrs.get("axis", 0)), int(node.attrs.get("batch_dims", 0))
    axis %= max(len(graph.tensors[node.inputs[0]].shape), 1)
    return None if axis == batches else f"its axis is {axis}, after {batches} batches"
