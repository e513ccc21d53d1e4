"""The kernels of a lowered float graph: which constants may be pruned, how they are read, what they multiply."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from featherweight.errors import DataError, FormatError
from featherweight.graph import Graph, Model, Node, Tensor
from featherweight.graph.numerics import INTEGER_BITS
from featherweight.operators import lookup
from featherweight.pruning.prunable import OPERATORS, Kernel
from featherweight.sparsity.weight_layouts import Layout, runtime_layout

_KIND = {op: kind for kind, op in reversed(OPERATORS.items()) if kind != "embedding"}
LSTM = "UNIDIRECTIONAL_SEQUENCE_LSTM"
MATMUL = "BATCH_MATMUL"


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
                raise DataError(f"{node.op} '{node.name}': its kernel '{tensor.name}' holds NaN or infinite values.")
            kind = {LSTM: "recurrent", MATMUL: "dense"}.get(node.op) or _KIND[node.op]
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
    """Returns how an operator reads its kernel: (out, ...), depthwise (1, kh, kw, out), BATCH_MATMUL (..., in, out)."""
    axes = tuple(range(len(shape)))
    if node.op == "DEPTHWISE_CONV_2D":
        return Layout(shape, axes, has_channels_last=True)
    if node.op == MATMUL:
        is_turned = bool(node.attrs.get("adj_y"))
        return Layout(shape, axes if is_turned else (*axes[:-2], axes[-1], axes[-2]), outputs=len(shape) - 1)
    return runtime_layout(shape)


def _groups(node: Node, weight: tuple[int, ...], activation: tuple[int, ...]) -> int:
    if node.op == "CONV_2D":
        return activation[3] // weight[3]
    if node.op == "DEPTHWISE_CONV_2D":
        return activation[3]
    return math.prod(weight[:-2]) if node.op == MATMUL else 1


def _weights(graph: Graph) -> Iterator[tuple[Node, Tensor, str]]:
    """Yields (node, float weight, what is multiplied by it)."""
    for node in graph.nodes:
        roles = ((1, 0),) if node.op == MATMUL else ()
        if node.op in _KIND or node.op == LSTM:
            roles = tuple((role.weight, role.activation) for role in lookup(node.op).weights)
        for weight, activation in roles:
            name = node.inputs[weight] if weight < len(node.inputs) else ""
            if name and graph.tensors[name].is_constant and graph.tensors[name].is_float:
                yield node, graph.tensors[name], node.inputs[activation]
