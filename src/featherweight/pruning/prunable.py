"""Kernels that may be pruned: of an optimizer's variables, or of a graph's constants, and what these multiply."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from featherweight.errors import DataError, FormatError
from featherweight.graph import Graph, Model, Node, Tensor
from featherweight.graph.numerics import INTEGER_BITS
from featherweight.operators import Op, lookup, registered
from featherweight.sparsity.weight_layouts import Layout
from featherweight.tflite import release_pages

# Kind → the operator that a kernel of that kind becomes; a target names blocks by operator.
OPERATORS: dict[str, str] = {op.weight_kind: op.name for op in registered() if op.has_integer_weights}
OPERATORS["recurrent"] = OPERATORS["dense"]


@dataclass(frozen=True)
class Kernel:
    """A weight that may be pruned.

    Attributes:
        index: its place among the optimizer's variables, or the graph's kernels.
        kind: ``dense``, ``recurrent``, ``conv``, ``transposed``, ``depthwise`` or ``embedding``.
        role: ``first`` (convolution), ``last`` (classifier), ``depthwise``, or nothing.
    """

    index: int
    path: str
    kind: str
    layout: Layout
    role: str = ""


@dataclass(frozen=True, eq=False)
class GraphKernel:
    """One kernel of a graph.

    Attributes:
        kernel: its name as path, its kind and role, and how the runtime reads it.
        graph: index of the graph whose constant it is.
        node: the operator that multiplies by it.
        activation: the tensor that is multiplied.
        groups: how many parts of its rows have inputs of their own: of a depthwise convolution, its input channels.
    """

    kernel: Kernel
    graph: int
    node: Node
    activation: str
    groups: int = 1

    @property
    def name(self) -> str:
        """The constant's name."""
        return self.kernel.path

    @property
    def depth(self) -> int:
        """How many weights each of its rows has."""
        _, rows, _, columns = self.kernel.layout.view_shape
        return self.kernel.layout.size // (columns if self.kernel.layout.has_channels_last else rows)

    @property
    def taps(self) -> tuple[int, int]:
        """(height, width) of a convolution's kernel."""
        return self.kernel.layout.shape[1], self.kernel.layout.shape[2]


def check_float(model: Model, what: str) -> None:
    """Raises FormatError if the model is quantized: zeros are made before integers are."""
    for tensor in model.tensors.values():
        if tensor.quant is not None and tensor.dtype in INTEGER_BITS:
            raise FormatError(
                f"{what} takes float models; '{tensor.name}' holds {tensor.dtype} with a scale. Start from the "
                "float model; `quantize` keeps its zeros."
            )


def find_kernels(model: Model) -> tuple[GraphKernel, ...]:
    """Returns the kernels of all graphs in order of their use, each once; the first convolution and last kernel marked.

    Raises:
        DataError: if a kernel holds NaN or infinity.
    """
    found: dict[str, GraphKernel] = {}
    for index, graph in enumerate(model.graphs):
        for node, tensor, activation in _weights(graph):
            if tensor.name in found:
                continue
            array = tensor.array
            if array is None or not np.isfinite(array).all():
                raise DataError(
                    f"{node.op} '{node.name}': its kernel '{tensor.name}' holds NaN or infinite values. "
                    "Repair the model."
                )
            release_pages(tensor.data)
            kind = lookup(node.op).weight_kind or "dense"
            kernel = Kernel(len(found), tensor.name, kind, layout_of(node, tensor.shape))
            groups = _groups(node, tensor.shape, graph.tensors[activation].shape)
            found[tensor.name] = GraphKernel(kernel, index, node, activation, groups)
    kernels = list(found.values())
    # A convolution of one channel is lowered to a depthwise one.
    first = next((k.name for k in kernels if k.kernel.kind in ("conv", "depthwise")), None)
    main = [k.name for k in kernels if k.graph == 0]
    last = main[-1] if len(main) > 1 else None
    roles = {k.name: "depthwise" for k in kernels if k.kernel.kind == "depthwise"}
    roles |= {name: role for name, role in ((first, "first"), (last, "last")) if name is not None}
    return tuple(replace(k, kernel=replace(k.kernel, role=roles.get(k.name, ""))) for k in kernels)


def layout_of(node: Node, shape: tuple[int, ...]) -> Layout:
    """Returns how an operator reads its kernel."""
    if lookup(node.op).axes == "product" and node.attrs.get("adj_y"):
        return Layout(shape, tuple(range(len(shape))), outputs=len(shape) - 1)
    if lookup(node.op).axes == "product":
        return Layout(shape, (*range(len(shape) - 2), len(shape) - 1, len(shape) - 2), outputs=len(shape) - 1)
    return stored_layout(lookup(node.op), shape)


def stored_layout(op: Op, shape: tuple[int, ...]) -> Layout:
    """Returns how a weight is read that is stored as an operator takes it; that of one without axes is (..., in, out).

    >>> stored_layout(lookup("CONV_3D"), (3, 3, 3, 4, 8)).view_shape
    (1, 8, 27, 4)
    """
    outputs, inputs = op.weight_axes or (len(shape) - 1, len(shape) - 2)
    if op.weight_kind in ("depthwise", "embedding"):
        return Layout(shape, tuple(range(len(shape))), has_channels_last=True)
    between = (axis for axis in range(len(shape)) if axis not in (outputs, inputs))
    return Layout(shape, (outputs, *between, inputs))


def _groups(node: Node, weight: tuple[int, ...], activation: tuple[int, ...]) -> int:
    kind = lookup(node.op).weight_kind
    if kind == "conv":
        return activation[3] // weight[3]
    if kind == "depthwise":
        return activation[3]
    return math.prod(weight[:-2]) if lookup(node.op).axes == "product" else 1


def _weights(graph: Graph) -> Iterator[tuple[Node, Tensor, str]]:
    """Yields (node, float weight, what is multiplied by it)."""
    for node in graph.nodes:
        op = lookup(node.op)
        roles = [(1, 0)] if lookup(node.op).axes == "product" else []  # a kernel where it is a constant
        if op.has_integer_weights and op.weight_kind != "embedding":
            roles = [(role.weight, role.activation) for role in op.weights]
        for weight, activation in roles:
            name = op.input_of(node, weight)
            if name and graph.tensors[name].is_constant and graph.tensors[name].is_float:
                yield node, graph.tensors[name], node.inputs[activation]


def matches(path: str, pattern: str) -> bool:
    """True if a shell pattern matches a variable's path or a part of it, from one slash to another.

    >>> matches("net/block_1/conv/kernel", "block_1"), matches("net/block_1/conv/kernel", "conv/*")
    (True, True)
    >>> matches("net/block_1/conv/kernel", "block")
    False
    """
    parts = path.split("/")
    spans = ("/".join(parts[i:j]) for i in range(len(parts)) for j in range(i + 1, len(parts) + 1))
    return any(fnmatch.fnmatchcase(span, pattern) for span in spans)
