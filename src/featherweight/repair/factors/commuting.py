"""How factors of channels go through operators: rules by what the record says becomes of their axes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np

from featherweight.channels.labels import Labeling
from featherweight.graph import Graph, Node, Tensor, consumers
from featherweight.operators import lookup
from featherweight.operators.call import FUSED_BOUNDS, fused_activation
from featherweight.repair.factors.freedom import Books, Cap, Freedom, Offset, Weight

# From a node to the labels of its outputs' channels; None where factors do not go through.
Rule = Callable[[Books, Node], list[np.ndarray] | None]
KINDS = ("conv", "depthwise", "dense", "transposed")


def freedom(graph: Graph, loose: Collection[str] = ()) -> Freedom:
    """Returns which factors the channels of a float graph may have; those of `loose` outputs are undone behind it."""
    books, read = Books(graph, Labeling(graph)), consumers(graph)
    for name in graph.inputs:
        if graph.tensors[name].is_float:
            books.channels[name] = books.bound(name, f"'{name}' is an input of the model")
    for node in graph.nodes:
        _follow(books, node, read)
    for name in graph.outputs:
        if graph.tensors[name].is_float and name not in loose:
            books.labels.fix(books.of(name), f"'{name}' is an output of the model")
    return books.finished()


def _follow(books: Books, node: Node, read: Mapping[str, tuple[Node, ...]]) -> None:
    op = lookup(node.op)
    if op.is_of_shape:
        return
    results = None
    if (reason := _refused(books.graph, node, read)) is None and not any(_is_kept(books.graph, n) for n in node.inputs):
        rule = _RULES.get(op.axes)
        results = rule(books, node) if rule is not None else None
    if results is None:
        reason = reason or f"{node.op} '{node.name}' reads it, which does not commute with factors for channels"
        for name in _computed(books.graph, node):
            books.labels.fix(books.of(name), reason)
        for name in node.outputs:
            if name and books.graph.tensors[name].is_float:
                books.channels[name] = books.bound(name, reason)
        return
    for name, labels in zip(node.outputs, results, strict=True):
        books.channels[name] = labels
    _bounded(books, node)


def _bounded(books: Books, node: Node) -> None:
    """Notes the bounds of the activation that an operator is or ends in."""
    name = node.op if node.op in FUSED_BOUNDS else fused_activation(node)
    low, high = FUSED_BOUNDS.get(name, (-1.0, 1.0))
    labels = books.channels[node.outputs[0]]
    if low == 0 and high is not None:
        books.caps.append(Cap(node, high, labels))
    elif low or high is not None:
        books.labels.fix(labels, f"{node.op} '{node.name}' ends in {name}, which has bounds on both sides of zero")


def _computed(graph: Graph, node: Node) -> list[str]:
    return [tensor.name for _, tensor in graph.float_inputs(node) if not tensor.is_constant]


def _is_kept(graph: Graph, name: str) -> bool:
    return bool(name) and graph.tensors[name].is_variable


def _refused(graph: Graph, node: Node, read: Mapping[str, tuple[Node, ...]]) -> str | None:
    """Returns why the constants of an operator with a weight can't be changed, or None."""
    op = lookup(node.op)
    if op.weight is None:
        return None
    name, bias = op.input_of(node, op.weight), op.input_of(node, op.bias)
    if not name or graph.tensors[name].array is None or not graph.tensors[name].is_float:
        return f"the weight of {node.op} '{node.name}' is no constant of floats"
    if len(read[name]) > 1:
        return f"the weight of {node.op} '{node.name}' serves {len(read[name])} operators"
    if bias and not graph.tensors[bias].is_constant:
        return f"the bias of {node.op} '{node.name}' is computed"
    return None


# ------------------------------------------------------------------------------------------------------ with weights


def _weighted(books: Books, node: Node) -> list[np.ndarray] | None:
    """New channels; those of the input are the weight's columns, or its rows, of a depthwise convolution."""
    op = lookup(node.op)
    if op.weight_kind not in KINDS or op.weight is None or op.weight_axes is None:
        return None
    shape, x = books.graph.tensors[node.inputs[op.weight]].shape, books.of(node.inputs[op.activation])
    (out, into), many = op.weight_axes, 0
    writes = books.labels.fresh(shape[out])
    if op.weight_kind == "depthwise":
        reads = _along(np.repeat(x, shape[out] // x.size), into, len(shape))
    elif shape[into] % x.size == 0:
        reads = _along(np.tile(x, shape[into] // x.size), into, len(shape))
    else:
        many, rest = divmod(x.size, shape[into])
        if rest or shape[out] % many:
            return None
        grouped = np.repeat(x.reshape(many, shape[into]), shape[out] // many, axis=0)
        reads = grouped.reshape([shape[i] if i in (out, into) else 1 for i in range(len(shape))])
    bias = op.bias if op.input_of(node, op.bias) else None
    books.weights.append(Weight(node, op.weight, shape, _along(writes, out, len(shape)), reads, bias))
    return [writes]


def _along(labels: np.ndarray, axis: int, rank: int) -> np.ndarray:
    return labels.reshape([-1 if i == axis else 1 for i in range(rank)])


def _matmul(books: Books, node: Node) -> list[np.ndarray] | None:
    """Of a constant matrix, columns are new channels; what is computed hands its own columns on."""
    x, y = (books.graph.tensors[name] for name in node.inputs)
    is_turned = bool(node.attrs.get("adj_y"))
    if x.is_constant or node.attrs.get("adj_x"):
        return None
    if not y.is_constant:
        if is_turned:
            return None
        books.labels.fix(books.of(x.name), f"{node.op} '{node.name}' sums over its channels")
        return [books.of(y.name)]
    rank, given = len(y.shape), books.of(x.name)
    into, out = (rank - 1, rank - 2) if is_turned else (rank - 2, rank - 1)
    if not y.is_float or given.size != y.shape[into]:
        return None
    writes = books.labels.fresh(y.shape[out])
    books.weights.append(Weight(node, 1, y.shape, _along(writes, out, rank), _along(given, into, rank)))
    return [writes]


# -------------------------------------------------------------------------------------------------------- elementwise


def _same(books: Books, node: Node) -> list[np.ndarray] | None:
    is_capped = FUSED_BOUNDS.get(node.op, (None, None))[0] == 0
    return [books.of(node.inputs[0])] if lookup(node.op).is_homogeneous or is_capped else None


def _joined(books: Books, node: Node) -> list[np.ndarray] | None:
    op, graph = lookup(node.op), books.graph
    if op.is_joint:
        return _sum(books, node)
    if op.is_product:
        return _product(books, node)
    return [books.of(node.inputs[0])] if op.is_homogeneous and graph.tensors[node.inputs[1]].is_constant else None


def _sum(books: Books, node: Node) -> list[np.ndarray] | None:
    """Operands that are computed have one factor; constants are divided by it."""
    channels = _channels(books.graph.tensors[node.outputs[0]])
    operands = [books.graph.tensors[name] for name in node.inputs]
    computed = [books.of(tensor.name) for tensor in operands if not tensor.is_constant]
    if not computed or any(labels.size != channels for labels in computed):
        return None
    for other in computed[1:]:
        books.labels.join(computed[0], other, "")
    books.offsets += [Offset(node, i, computed[0]) for i, tensor in enumerate(operands) if tensor.is_constant]
    return [computed[0]]


def _product(books: Books, node: Node) -> list[np.ndarray] | None:
    """A constant makes new channels of old ones; of two computed operands, one that is free hands its channels on."""
    op, tensors = lookup(node.op), [books.graph.tensors[name] for name in node.inputs]
    result = books.graph.tensors[node.outputs[0]]
    constants = [i for i, tensor in enumerate(tensors) if tensor.is_constant]
    if op.divisor is not None:
        x, divisor = tensors[1 - op.divisor], tensors[op.divisor]
        if x.is_constant or _channels(x) != _channels(result):
            return None
        if not divisor.is_constant:
            books.labels.fix(books.of(divisor.name), f"{node.op} '{node.name}' divides by it")
        return [books.of(x.name)]
    if len(constants) == 1:
        x, position, size = books.of(tensors[1 - constants[0]].name), constants[0], _channels(result)
        if x.size not in (1, size) or len(tensors[position].shape) > len(result.shape):
            return None
        writes, shape = books.labels.fresh(size), (*(tensors[position].shape or (1,))[:-1], size)
        books.weights.append(Weight(node, position, shape, writes, np.broadcast_to(x, size), is_diagonal=True))
        return [writes]
    wide = [tensor for tensor in tensors if _channels(tensor) == _channels(result)]
    if not wide:
        return None
    x = min(wide, key=lambda tensor: (books.labels.is_fixed(books.of(tensor.name)), -tensor.elements))
    gate = tensors[1] if x is tensors[0] else tensors[0]
    books.labels.fix(books.of(gate.name), f"{node.op} '{node.name}' multiplies by it")
    return [books.of(x.name)]


def _channels(tensor: Tensor) -> int:
    return tensor.shape[-1] if tensor.shape else 1


# ----------------------------------------------------------------------------------------------- windows and movers


def _window(books: Books, node: Node) -> list[np.ndarray] | None:
    op = lookup(node.op)
    return [books.of(node.inputs[0])] if op.is_homogeneous or op.is_mover else None


def _reduction(books: Books, node: Node) -> list[np.ndarray] | None:
    axes, rank = books.graph.tensors[node.inputs[1]].array, len(books.graph.tensors[node.inputs[0]].shape)
    if not lookup(node.op).is_homogeneous or axes is None or rank - 1 in {int(axis) % rank for axis in axes.ravel()}:
        return None
    return [books.of(node.inputs[0])]


def _reshape(books: Books, node: Node) -> list[np.ndarray] | None:
    """The last axis stays, repeats along a longer one, or is cut, so that what its parts share has one factor."""
    x, size = books.of(node.inputs[0]), _channels(books.graph.tensors[node.outputs[0]])
    if size and x.size and size % x.size == 0:
        return [np.tile(x, size // x.size)]
    if not size or x.size % size:
        return None
    parts = x.reshape(-1, size)
    for part in parts[1:]:
        books.labels.join(parts[0], part, "")
    return [parts[0]]


def _transpose(books: Books, node: Node) -> list[np.ndarray] | None:
    order = books.graph.tensors[node.inputs[1]].array
    return [books.of(node.inputs[0])] if order is not None and int(order[-1]) == order.size - 1 else None


def _pad(books: Books, node: Node) -> list[np.ndarray] | None:
    """Channels of zeros may have any factor."""
    pads, x = books.graph.tensors[node.inputs[1]].array, books.of(node.inputs[0])
    filled = books.graph.tensors[node.inputs[2]].array if len(node.inputs) > 2 else None
    if pads is None or (len(node.inputs) > 2 and (filled is None or filled.any())):
        return None
    before, after = (int(count) for count in pads.reshape(-1, 2)[-1])
    if lookup(node.op).axes == "mirror":
        return None if before or after else [x]
    return [np.concatenate([books.labels.fresh(before), x, books.labels.fresh(after)])]


def _concatenation(books: Books, node: Node) -> list[np.ndarray] | None:
    rank = len(books.graph.tensors[node.outputs[0]].shape)
    if any(books.graph.tensors[name].is_constant for name in node.inputs):
        return None
    parts = [books.of(name) for name in node.inputs]
    if int(node.attrs.get("axis", 0)) % rank == rank - 1:
        return [np.concatenate(parts)]
    for part in parts[1:]:
        books.labels.join(parts[0], part, "")
    return [parts[0]]


def _split(books: Books, node: Node) -> list[np.ndarray] | None:
    axis, tensor = books.graph.tensors[node.inputs[0]].array, books.graph.tensors[node.inputs[1]]
    if axis is None:
        return None
    x, count = books.of(tensor.name), len(node.outputs)
    is_last = int(axis.ravel()[0]) % len(tensor.shape) == len(tensor.shape) - 1
    return list(np.split(x, count)) if is_last else [x] * count


def _slice(books: Books, node: Node) -> list[np.ndarray] | None:
    begins, x = books.graph.tensors[node.inputs[1]].array, books.of(node.inputs[0])
    size = _channels(books.graph.tensors[node.outputs[0]])
    return None if begins is None else [x[int(begins[-1]) : int(begins[-1]) + size]]


def _strided(books: Books, node: Node) -> list[np.ndarray] | None:
    """All channels, of some rows."""
    steps, x = books.graph.tensors[node.inputs[3]].array, books.graph.tensors[node.inputs[0]]
    is_whole = x.shape[-1:] == books.graph.tensors[node.outputs[0]].shape[-1:] and steps is not None
    masks = [int(node.attrs.get(f"{mask}_mask", 0)) for mask in ("ellipsis", "new_axis")]
    last = 1 << (len(x.shape) - 1)
    is_cut = int(node.attrs.get("shrink_axis_mask", 0)) & last
    if not is_whole or any(masks) or is_cut or steps is None or steps.size != len(x.shape) or int(steps[-1]) != 1:
        return None
    return [books.of(x.name)]


_RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("convolution", "depthwise", "dense"), _weighted),
    "product": _matmul,
    "same": _same,
    "joined": _joined,
    **dict.fromkeys(("window", "blocks"), _window),
    "reduction": _reduction,
    **dict.fromkeys(("reshape", "squeeze", "expand"), _reshape),
    "transpose": _transpose,
    **dict.fromkeys(("pad", "mirror"), _pad),
    "concatenation": _concatenation,
    "split": _split,
    "slice": _slice,
    "strided_slice": _strided,
}
