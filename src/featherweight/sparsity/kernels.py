"""The kernels of a lowered float graph: which constants may be pruned, how they are read, what they multiply."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from featherweight.errors import DataError, FormatError
from featherweight.graph import Graph, Model, Node, Tensor, constant
from featherweight.layouts import Layout, runtime_layout
from featherweight.numerics import INTEGER_BITS
from featherweight.ops import lookup
from featherweight.pruning.kernels import OPERATORS, Kernel

_KIND = {op: kind for kind, op in reversed(OPERATORS.items()) if kind != "embedding"}
_LSTM = "UNIDIRECTIONAL_SEQUENCE_LSTM"


@dataclass(frozen=True, eq=False)
class GraphKernel:
    """One kernel of a graph.

    Attributes:
        kernel: its name as path, its kind and role, and how the runtime reads it.
        graph: index of the graph whose constant it is.
        node: the operator that multiplies by it.
        activation: the tensor that is multiplied.
    """

    kernel: Kernel
    graph: int
    node: Node
    activation: str

    @property
    def name(self) -> str:
        """The constant's name."""
        return self.kernel.path


def check_float(model: Model, what: str) -> None:
    """Raises FormatError if the model is quantized: zeros are made before integers are."""
    for graph in model.graphs:
        for tensor in graph.tensors.values():
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
            kind = _KIND.get(node.op, "recurrent")
            kernel = Kernel(len(found), tensor.name, kind, layout_of(node.op, tensor.shape))
            found[tensor.name] = GraphKernel(kernel, index, node, activation)
    kernels = list(found.values())
    # A convolution of one channel is lowered to a depthwise one.
    first = next((k.name for k in kernels if k.kernel.kind in ("conv", "depthwise")), None)
    main = [k.name for k in kernels if k.graph == 0]
    last = main[-1] if len(main) > 1 else None
    roles = {k.name: "depthwise" for k in kernels if k.kernel.kind == "depthwise"}
    roles |= {name: role for name, role in ((first, "first"), (last, "last")) if name is not None}
    return tuple(replace(k, kernel=replace(k.kernel, role=roles.get(k.name, ""))) for k in kernels)


def layout_of(op: str, shape: tuple[int, ...]) -> Layout:
    """Returns how an operator reads its kernel: (out, ...), but depthwise (1, kh, kw, out)."""
    if op == "DEPTHWISE_CONV_2D":
        return Layout(shape, (0, 1, 2, 3), has_channels_last=True)
    return runtime_layout(shape)


def _weights(graph: Graph) -> Iterator[tuple[Node, Tensor, str]]:
    """Yields (node, float weight, what is multiplied by it)."""
    for node in graph.nodes:
        if node.op not in (*_KIND, _LSTM):
            continue
        for role in lookup(node.op).weights:
            name = node.inputs[role.weight] if role.weight < len(node.inputs) else ""
            if name and graph.tensors[name].is_constant and graph.tensors[name].is_float:
                yield node, graph.tensors[name], node.inputs[role.activation]


def with_weights(model: Model, values: dict[str, np.ndarray]) -> Model:
    """Returns the model with other values for constants, by name."""
    graphs = tuple(
        replace(
            graph,
            tensors={
                name: replace(tensor, data=constant(name, values[name]).data) if name in values else tensor
                for name, tensor in graph.tensors.items()
            },
        )
        for graph in model.graphs
    )
    return replace(model, graphs=graphs)
