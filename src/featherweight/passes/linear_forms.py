"""What linear operators make of a tensor, as one convolution: ``y[i] = b + Σ K[d]·x[i·s + d]``, x zero outside."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from featherweight import operators
from featherweight.graph import Graph, Node, Tensor
from featherweight.operators.call import Call, tensors_of
from featherweight.operators.geometry import Pair, Window

Taps = Mapping[Pair, np.ndarray]
# Where a kernel that moves nothing has its one tap.
_HERE: Pair = (0, 0)
_LARGEST = 127


@dataclass(frozen=True)
class Form:
    """A tensor (n, h, w, out) as a convolution of another one (n, h, w, in); numbers are float64.

    Attributes:
        source: (height, width) of what is read.
        extents: (height, width) of the result.
        channels: (in, out).
        groups: of the channels, as in grouped convolutions; ``in`` of them make it depthwise.
        stride: pixels of the source from one result to the next.
        offsets: where the taps are, in pixels from that of the result.
        bias: one number for each channel of the result.
        taps: makes the matrix (groups, out / groups, in / groups) of each offset.
        parts: forms that it is the sum of, one of each pattern of taps; none where it is one itself.
    """

    source: Pair
    extents: Pair
    channels: Pair
    groups: int
    stride: Pair
    offsets: frozenset[Pair]
    bias: np.ndarray
    taps: Callable[[], Taps]
    parts: tuple[Form, ...] = ()

    @property
    def is_of_channels(self) -> bool:
        """True where each number comes of the one at its place: a factor for each channel, and a bias."""
        is_here = self.offsets == {_HERE} and self.stride == (1, 1)
        return is_here and self.groups == self.channels[0] == self.channels[1]


def identity(tensor: Tensor) -> Form:
    """Returns a tensor as a form of itself."""
    return _pointwise(tensor, np.ones(tensor.shape[3]), np.zeros(tensor.shape[3]))


def is_convolution(node: Node) -> bool:
    """True for a convolution, of each channel alone or not."""
    return operators.lookup(node.op).weight_kind in ("conv", "depthwise")


def form_of(node: Node, operand: str, graph: Graph, *, rounded: bool = False) -> Form | None:
    """Returns what an operator makes of one operand, where all others are constants and the rule is linear.

    `rounded`: the weights of convolutions are what integers of eight bits would make of them.
    """
    x = graph.tensors[operand]
    if is_convolution(node):
        return _of_convolution(node, x, graph, rounded)
    if node.op == "PAD":
        return _of_padding(node, x, graph)
    if node.op not in ("MUL", "ADD", "SUB"):
        return None
    one, zero = np.ones(x.shape[3]), np.zeros(x.shape[3])
    values = _by_channel(next(graph.tensors[name] for name in node.inputs if name != operand), x)
    if values is None:
        return None
    if node.op == "MUL":
        return _pointwise(x, values, zero)
    if node.op == "ADD":
        return _pointwise(x, one, values)
    return _pointwise(x, one, -values) if node.inputs[0] == operand else _pointwise(x, -one, values)


def behind(outer: Form, inner: Form) -> Form | None:
    """Returns the form of what `outer` makes of the tensor that is `inner`; None where no convolution computes it.

    What `outer` reads outside of that tensor is zero: so must be what `inner` would be there.
    """
    if not (_stays_within(outer) or _is_zero_outside(inner)):
        return None
    groups = math.gcd(outer.groups, inner.groups)
    stride = (outer.stride[0] * inner.stride[0], outer.stride[1] * inner.stride[1])

    def moved(second: Pair, first: Pair) -> Pair:
        return second[0] * inner.stride[0] + first[0], second[1] * inner.stride[1] + first[1]

    def taps() -> Taps:
        found: dict[Pair, np.ndarray] = {}
        firsts = inner.taps()
        for second, matrix in outer.taps().items():
            for first, other in firsts.items():
                _add_to(found, moved(second, first), _product(matrix, other, groups))
        return found

    bias = outer.bias
    if inner.bias.any():
        total = np.sum(list(outer.taps().values()), axis=0)
        bias = bias + (total @ inner.bias.reshape(outer.groups, -1, 1)).reshape(-1)
    offsets = frozenset(moved(second, first) for second in outer.offsets for first in inner.offsets)
    channels = inner.channels[0], outer.channels[1]
    parts = tuple(_scaled(part, outer.taps()[_HERE]) for part in inner.parts) if outer.is_of_channels else ()
    if parts:
        parts = (replace(parts[0], bias=parts[0].bias + outer.bias), *parts[1:])
    return Form(inner.source, outer.extents, channels, groups, stride, offsets, bias, taps, parts)


def total(one: Form, other: Form, sign: int) -> Form | None:
    """Returns the form of ``one + sign · other``; None where their pixels are not the same ones."""
    if (one.stride, one.extents, one.channels) != (other.stride, other.extents, other.channels):
        return None
    other = _scaled(other, np.full((other.channels[1], 1, 1), float(sign)))
    parts: dict[tuple[frozenset[Pair], int], Form] = {}
    for part in (*(one.parts or (one,)), *(other.parts or (other,))):
        kind = part.offsets, part.groups
        parts[kind] = added(parts[kind], part) if kind in parts else part
    return replace(added(one, other), parts=tuple(parts.values()) if len(parts) > 1 else ())


def added(one: Form, other: Form) -> Form:
    """Returns the sum of two forms over the same pixels, without parts."""
    groups = math.gcd(one.groups, other.groups)

    def taps() -> Taps:
        found: dict[Pair, np.ndarray] = {}
        for form in (one, other):
            for offset, matrix in form.taps().items():
                _add_to(found, offset, _in_groups(matrix, groups))
        return found

    return replace(
        one, groups=groups, offsets=one.offsets | other.offsets, bias=one.bias + other.bias, taps=taps, parts=()
    )


def _scaled(form: Form, factors: np.ndarray) -> Form:
    """Returns a form with a factor (channels, 1, 1) for each channel of the result, before anything is added to it."""

    def taps() -> Taps:
        return {offset: _product(factors, matrix, form.groups) for offset, matrix in form.taps().items()}

    parts = tuple(_scaled(part, factors) for part in form.parts)
    return replace(form, bias=form.bias * factors.reshape(-1), taps=taps, parts=parts)


def as_integers(kernel: np.ndarray) -> np.ndarray:
    """Returns a kernel (out, …) as what integers of eight bits, with a scale for each output, make of it."""
    steps = np.abs(kernel).max(axis=(1, 2, 3), keepdims=True) / _LARGEST
    return np.round(kernel / np.where(steps > 0, steps, 1)) * steps


def _add_to(found: dict[Pair, np.ndarray], offset: Pair, matrix: np.ndarray) -> None:
    found[offset] = found[offset] + matrix if offset in found else matrix


def _product(outer: np.ndarray, inner: np.ndarray, groups: int) -> np.ndarray:
    """Returns the matrices of one tap behind another; those of single channels are only factors."""
    if outer.shape[1:] == (1, 1):
        return outer.reshape(groups, -1, 1) * _in_groups(inner, groups)
    if inner.shape[1:] == (1, 1):
        return _in_groups(outer, groups) * inner.reshape(groups, 1, -1)
    return _in_groups(outer, groups) @ _in_groups(inner, groups)


def _in_groups(matrix: np.ndarray, groups: int) -> np.ndarray:
    """Returns the matrices of a tap in fewer groups, with zeros between those that were apart."""
    fine, rows, columns = matrix.shape
    if fine == groups:
        return matrix
    ratio = fine // groups
    found = np.zeros((groups, ratio, rows, ratio, columns))
    each = np.arange(ratio)
    found[:, each, :, each, :] = matrix.reshape(groups, ratio, rows, columns).swapaxes(0, 1)
    return found.reshape(groups, ratio * rows, ratio * columns)


def _stays_within(form: Form) -> bool:
    """True for a form that reads no pixel outside of its source."""
    for axis in (0, 1):
        places = [offset[axis] for offset in form.offsets]
        if min(places) < 0 or (form.extents[axis] - 1) * form.stride[axis] + max(places) >= form.source[axis]:
            return False
    return True


def _is_zero_outside(form: Form) -> bool:
    """True for a form whose rule gives zeros wherever the tensor itself has ended: it covers all of its source."""
    covers = all(
        offset[axis] <= 0 and form.extents[axis] + offset[axis] >= form.source[axis]
        for offset in form.offsets
        for axis in (0, 1)
    )
    return covers and form.stride == (1, 1) and not form.bias.any()


def _pointwise(x: Tensor, factor: np.ndarray, shift: np.ndarray, extents: Pair | None = None, at: Pair = _HERE) -> Form:
    count = x.shape[3]
    source = x.shape[1], x.shape[2]
    matrix, channels, offsets = factor.reshape(count, 1, 1), (count, count), frozenset({at})
    return Form(source, extents or source, channels, count, (1, 1), offsets, shift, lambda: {at: matrix})


def _by_channel(tensor: Tensor, x: Tensor) -> np.ndarray | None:
    """Returns a constant that has one number for each channel of x; None where there are more."""
    values = tensor.array if tensor.is_constant and tensor.is_float else None
    if values is None or not np.isfinite(values).all() or values.size not in (1, x.shape[3]) or values.ndim > 4:
        return None
    is_of_channels = values.size == 1 or values.shape[-1] == values.size
    return np.broadcast_to(values.reshape(-1).astype(np.float64), (x.shape[3],)) if is_of_channels else None


def _of_padding(node: Node, x: Tensor, graph: Graph) -> Form | None:
    pads = graph.tensors[node.inputs[1]].array
    if pads is None or pads.shape != (4, 2) or pads[[0, 3]].any() or (pads < 0).any():
        return None
    shape = graph.tensors[node.name].shape
    top, left = int(pads[1, 0]), int(pads[2, 0])
    return _pointwise(x, np.ones(x.shape[3]), np.zeros(x.shape[3]), (shape[1], shape[2]), (-top, -left))


def _of_convolution(node: Node, x: Tensor, graph: Graph, rounded: bool) -> Form | None:
    if not _is_convolution(node, graph):
        return None
    values = np.asarray(graph.tensors[node.inputs[1]].array)
    is_depthwise = operators.lookup(node.op).weight_kind == "depthwise"
    count, made = x.shape[3], values.shape[3 if is_depthwise else 0]
    depth = 1 if is_depthwise else values.shape[3]
    groups = count // depth
    added = graph.tensors[node.inputs[2]].array if len(node.inputs) > 2 and node.inputs[2] else np.zeros(made)
    is_finite = added is not None and np.isfinite(values).all() and np.isfinite(added).all()
    if added is None or not is_finite or count % depth or not groups or made % groups or added.shape != (made,):
        return None
    call, size = Call(node, (), *tensors_of(node, graph)), (values.shape[1], values.shape[2])
    window = Window.of(call, x.shape[1], x.shape[2], size)
    rows, columns = (
        [index * window.dilation[axis] - window.pad[axis][0] for index in range(window.size[axis])] for axis in (0, 1)
    )

    def taps() -> Taps:
        kernel = (values[0].transpose(2, 0, 1)[..., None] if is_depthwise else values).astype(np.float64)
        kernel = as_integers(kernel) if rounded else kernel
        return {
            (row, column): kernel[:, i, j].reshape(groups, made // groups, depth)
            for i, row in enumerate(rows)
            for j, column in enumerate(columns)
        }

    offsets = frozenset((row, column) for row in rows for column in columns)
    bias = added.astype(np.float64)
    return Form((x.shape[1], x.shape[2]), window.out, (count, made), groups, window.stride, offsets, bias, taps)


def _is_convolution(node: Node, graph: Graph) -> bool:
    """True for one whose weights are plain float constants, and whose options say how it slides."""
    constants = [graph.tensors[name] for name in node.inputs[1:] if name]
    is_plain = all(t.is_constant and t.is_float and "sparsity" not in t.extras for t in constants)
    weight = constants[0] if constants and node.inputs[1] else None
    steps = [node.attrs.get(each.format(axis), 1) for each in ("stride_{}", "dilation_{}_factor") for axis in "hw"]
    is_sliding = node.attrs.get("padding") in ("SAME", "VALID") and all(step > 0 for step in steps)
    return is_plain and is_sliding and weight is not None and len(weight.shape) == 4 and min(weight.shape) > 0
