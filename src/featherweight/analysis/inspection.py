"""Says what is in a model: operators, arithmetic, tensors, bytes, quantization and sparsity."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from featherweight import operators, tflite
from featherweight.arguments import checked, flag
from featherweight.errors import listed
from featherweight.graph import Graph, Model, ModelLike, Node, Tensor, io_names
from featherweight.graph.numerics import INTEGER_BITS, QuantParams
from featherweight.operators.layers import shown_names
from featherweight.runtime.sizes import sizes_bytes

ARITHMETICS = ("integer", "hybrid", "float", "conversion", "control", "plain")
"""How a node computes.

`integer`: quantized integers in and out. `hybrid`: float activations with quantized weights. `float`: floats only.
`conversion`: between floats and integers (or float widths). `control`: runs other graphs. `plain`: shapes, indices,
conditions; no real numbers.
"""


@dataclass(frozen=True)
class OperatorRow:
    """One operator: how many nodes of it there are, and how many compute in which arithmetic."""

    op: str
    count: int
    arithmetic: Mapping[str, int]


@dataclass(frozen=True)
class TensorRow:
    """One tensor.

    Attributes:
        role: input, output, constant, variable or activation.
        sparsity: 0..1, for weights.
        shown: its name after the user's layers (``layer/kernel``), as far as names tell; else its own.
    """

    name: str
    graph: int
    role: str
    shape: tuple[int, ...]
    dtype: str
    stored_bytes: int
    quantization: str | None
    sparsity: float | None
    shown: str = ""


@dataclass(frozen=True)
class PortRow:
    """One input or output of the model by its public name; -1 in `shape` is a free size."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    quantization: str | None


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found.

    Attributes:
        size_bytes: of the file; compressed_bytes: the same, deflated as in a zip file.
        constant_bytes: bytes of all constants by their dtype.
        sparsity: the fraction of zeros (0..1) among the elements of all weights; None without weights.
        nodes: number of nodes by arithmetic (see `ARITHMETICS`).
        float_nodes: op and name of every node that computes with floats (float or hybrid).
        macs: multiply-accumulates of one run at the file's own batch; loop bodies count once.
    """

    size_bytes: int
    compressed_bytes: int | None
    description: str
    inputs: tuple[PortRow, ...]
    outputs: tuple[PortRow, ...]
    graphs: int
    nodes: Mapping[str, int]
    operators: tuple[OperatorRow, ...]
    float_nodes: tuple[tuple[str, str], ...]
    macs: int
    constant_bytes: Mapping[str, int]
    sparsity: float | None
    tensors: tuple[TensorRow, ...]

    def __repr__(self) -> str:
        nodes = ", ".join(f"{count} {kind}" for kind, count in self.nodes.items())
        return (
            f"Inspection of {sum(self.nodes.values())} operators ({nodes or 'none'}) and {len(self.tensors)} tensors\n"
            f"  inputs   {listed((f'{p.name}: {p.dtype}{list(p.shape)}' for p in self.inputs), 4)}\n"
            f"  outputs  {listed((f'{p.name}: {p.dtype}{list(p.shape)}' for p in self.outputs), 4)}\n"
            f"  size     {self.size_bytes:,} bytes, {self.macs:,} multiply-accumulates"
        )

    @property
    def is_integer(self) -> bool:
        """True where no node computes with floats; conversions at the borders are allowed."""
        return not self.float_nodes

    def to_json(self) -> dict[str, Any]:
        """Returns everything as plain lists, dicts, strings and numbers."""
        return asdict(self) | {"is_integer": self.is_integer}


@checked(compress=flag, progress=flag)
def inspect(source: ModelLike, *, compress: bool = True, progress: bool = True) -> Inspection:
    """Returns what is in a model, whatever `load` takes; files are looked at as they are.

    With `compress` false the compressed size is left out (None): it takes about a second per 30 MB.

    Raises:
        FormatError: if it is no readable ``.tflite`` model.
    """
    model = tflite.read(source)
    size, compressed = sizes_bytes(source, compress=compress, progress=progress)
    inputs, outputs = io_names(model)
    tensors = model.main.tensors
    nodes = [(graph, node, arithmetic(node, graph)) for graph in model.graphs for node in graph.nodes]
    rows = tuple(row for index, graph in enumerate(model.graphs) for row in _tensor_rows(index, graph))
    weights = [tensor for tensor in model.tensors.values() if is_weight(tensor)]
    elements = sum(tensor.elements for tensor in weights)
    return Inspection(
        size_bytes=size,
        compressed_bytes=compressed,
        description=model.description,
        inputs=tuple(_port(name, tensors[tensor]) for name, tensor in inputs.items()),
        outputs=tuple(_port(name, tensors[tensor]) for name, tensor in outputs.items()),
        graphs=len(model.graphs),
        nodes=node_counts(model),
        operators=_operator_rows((node, kind) for _, node, kind in nodes),
        float_nodes=tuple((op_name(n), n.name) for _, n, kind in nodes if kind in {"float", "hybrid"}),
        macs=sum(operators.macs(node, graph) for graph, node, _ in nodes),
        constant_bytes=constant_bytes(model),
        sparsity=sum(map(zero_count, weights)) / elements if elements else None,
        tensors=rows,
    )


def node_counts(model: Model) -> dict[str, int]:
    """Returns how many nodes compute in which arithmetic, in the order of `ARITHMETICS`."""
    found = Counter(arithmetic(node, graph) for graph in model.graphs for node in graph.nodes)
    return {kind: found[kind] for kind in ARITHMETICS if found[kind]}


def constant_bytes(model: Model) -> dict[str, int]:
    """Returns the bytes of all constants by dtype, largest first; what tensors share counts once."""
    found: Counter[str] = Counter()
    seen: set[int] = set()
    for tensor in model.tensors.values():
        if tensor.data is not None and id(tensor.data) not in seen:
            seen.add(id(tensor.data))
            found[tensor.dtype] += tensor.stored_bytes
    return dict(found.most_common())


def op_name(node: Node) -> str:
    """Returns the operator's name; a custom operator's own, in parentheses.

    >>> op_name(Node("CUSTOM", (), (), custom_code="MyOp"))
    'CUSTOM(MyOp)'
    """
    return f"{node.op}({node.custom_code})" if node.custom_code else node.op


def arithmetic(node: Node, graph: Graph) -> str:
    """Returns how a node computes, one of `ARITHMETICS`, read off the types of what it reads and writes."""
    if operators.lookup(node.op).calls:
        return "control"
    read = [graph.tensors[name] for name in node.inputs if name]
    written = [graph.tensors[name] for name in node.outputs if name]
    floats_in, floats_out = any(map(_is_real, read)), any(map(_is_real, written))
    integers_in, integers_out = any(map(_is_quantized, read)), any(map(_is_quantized, written))
    if floats_in or floats_out:
        widths = {t.dtype for t in (*read, *written) if _is_real(t)}
        if len(read) == 1 and ((integers_in or integers_out) or len(widths) > 1):
            return "conversion"
        return "hybrid" if integers_in or integers_out else "float"
    return "integer" if integers_in or integers_out else "plain"


def _is_real(tensor: Tensor) -> bool:
    return tensor.dtype in {"float64", "float32", "float16", "bfloat16", "complex64"}


def _is_quantized(tensor: Tensor) -> bool:
    return tensor.quant is not None and tensor.dtype in INTEGER_BITS


def is_weight(tensor: Tensor) -> bool:
    """True for constants that stand for real numbers in two dimensions or more: kernels, not biases or shapes."""
    return tensor.is_constant and len(tensor.shape) > 1 and (_is_real(tensor) or _is_quantized(tensor))


def zero_count(tensor: Tensor) -> int:
    """Returns how many of a constant's elements stand for the real number 0."""
    if "sparsity" in tensor.extras and tensor.data is not None:
        return max(tensor.elements - _stored_elements(tensor), 0)
    array = tensor.array
    if array is None:
        return 0
    quant = tensor.quant
    if quant is None or not any(quant.zero_point):
        return int(array.size - np.count_nonzero(array))
    shape = [-1 if d == quant.axis else 1 for d in range(array.ndim)] if len(quant.zero_point) > 1 else []
    return int(np.count_nonzero(array == np.asarray(quant.zero_point).reshape(shape)))


def _stored_elements(tensor: Tensor) -> int:
    bits = INTEGER_BITS.get(tensor.dtype) or {"float16": 16, "bfloat16": 16}.get(tensor.dtype, 32)
    return tensor.stored_bytes * 8 // bits


def quantization_text(params: QuantParams | None) -> str | None:
    """Returns parameters in a few words, or None.

    >>> quantization_text(QuantParams("int8", (0.5,), (-128,)))
    'scale 0.5, zero point -128'
    """
    if params is None:
        return None
    if params.block_size is not None:
        return f"blocks of {params.block_size} along axis {params.axis}"
    if len(params.scale) == 1:
        return f"scale {params.scale[0]:.6g}, zero point {params.zero_point[0]}"
    low, high = min(params.scale), max(params.scale)
    zero = f"zero point {params.zero_point[0]}" if len(set(params.zero_point)) == 1 else "zero points differ"
    return f"per channel (axis {params.axis}), {len(params.scale)} scales {low:.4g} to {high:.4g}, {zero}"


def _port(name: str, tensor: Tensor) -> PortRow:
    return PortRow(name, tensor.shape_signature or tensor.shape, tensor.dtype, quantization_text(tensor.quant))


def _operator_rows(nodes: Iterable[tuple[Node, str]]) -> tuple[OperatorRow, ...]:
    found: dict[str, Counter[str]] = {}
    for node, kind in nodes:
        found.setdefault(op_name(node), Counter())[kind] += 1
    ordered = sorted(found.items(), key=lambda item: (-item[1].total(), item[0]))
    return tuple(OperatorRow(op, kinds.total(), dict(kinds)) for op, kinds in ordered)


def _tensor_rows(index: int, graph: Graph) -> Iterable[TensorRow]:
    names = shown_names(graph)
    for name, tensor in graph.tensors.items():
        if name in graph.inputs:
            role = "input"
        elif name in graph.outputs:
            role = "output"
        elif tensor.is_constant:
            role = "constant"
        else:
            role = "variable" if tensor.is_variable else "activation"
        sparsity = zero_count(tensor) / tensor.elements if is_weight(tensor) and tensor.elements else None
        text = quantization_text(tensor.quant)
        shown, size = names.get(name, name), tensor.stored_bytes
        yield TensorRow(name, index, role, tensor.shape, tensor.dtype, size, text, sparsity, shown)


# ------------------------------------------------------------------------------------------------------- file size
