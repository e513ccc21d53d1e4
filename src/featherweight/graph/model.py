"""The model as a frozen graph that refers by name, and knows nothing of its file format.

Everything is immutable: an edit is a new `Graph` (`dataclasses.replace`) that shares what did not change.
Tensor names are unique over a whole `Model`, loop bodies included, so that a name alone says which tensor is
meant: in a plan, a rule or a message.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from featherweight.errors import FormatError, listed
from featherweight.graph.numerics import QuantParams, storage_dtype
from featherweight.graph.packing import PACKED_BITS, pack, unpack

ModelLike = Any
"""What public functions take as a model, and `featherweight.load` reads: a `Model`, what a function here returned, the
path or bytes of a ``.tflite`` file, a Keras file, or a live Keras model, torch module or JAX function. Below
`featherweight.tasks`, functions take a `Model`, and the path or bytes of a ``.tflite`` file where they say so."""

_EMPTY: Mapping[str, Any] = MappingProxyType({})
_MOST_AXES = 64  # NumPy has no more
_PLAINLESS = {"string": "holds strings", "resource": "is a handle", "variant": "is a handle"}


def _nothing() -> Mapping[str, Any]:
    return _EMPTY


@dataclass(frozen=True, eq=False)
class Tensor:
    """One value of a graph: a constant if it has `data`, else computed, fed, or kept between runs.

    Attributes:
        shape: sizes at the batch that the file was made for.
        dtype: the schema's name in lower case: ``float32``, ``int8``, ``int4``, ``bool`` …
        data: the constant's bytes as stored (1-D uint8, read-only), or None. Tensors that hold the same array
            share one buffer in the file.
        shape_signature: `shape` with -1 where a size is free, or None where all are fixed.
        file_name: the name to write where the file's own was empty or taken, else None.
        extras: fields of the file that the graph has no use for but must not lose (sparsity, variant types …).
        former_name: what lowering called it before naming it after its layer, if anything else.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    data: np.ndarray | None = None
    quant: QuantParams | None = None
    shape_signature: tuple[int, ...] | None = None
    is_variable: bool = False
    file_name: str | None = None
    extras: Mapping[str, Any] = field(default_factory=_nothing)
    former_name: str | None = None

    def __repr__(self) -> str:
        said = f"Tensor '{self.name}': {self.dtype}{list(self.shape_signature or self.shape)}"
        held = f", {self.stored_bytes:,} bytes" if self.is_constant else ""
        return f"{said}{held}" + (f", {len(self.quant.scale)} scale(s)" if self.quant and self.quant.scale else "")

    @property
    def is_constant(self) -> bool:
        """True where the value is stored in the model."""
        return self.data is not None

    @property
    def is_float(self) -> bool:
        """True for float32 values, the ones that quantization replaces."""
        return self.dtype == "float32"

    @property
    def elements(self) -> int:
        """The number of elements at the file's own batch."""
        return math.prod(self.shape)

    @property
    def stored_bytes(self) -> int:
        """Bytes that the constant takes in the file; 0 where it is none."""
        return 0 if self.data is None else self.data.size

    @property
    def array(self) -> np.ndarray | None:
        """The constant as an array of `shape`, without a copy except for 4-bit types; None where it is none.

        Raises:
            FormatError: if the stored bytes do not fit shape and dtype (a sparse tensor, for example).
        """
        if self.data is None:
            return None
        if self.dtype in _PLAINLESS or "sparsity" in self.extras:
            kind = _PLAINLESS.get(self.dtype, "is stored sparsely")
            raise FormatError(f"Tensor '{self.name}' {kind}; it has no plain array.")
        dtype = storage_dtype(self.dtype)
        if self.dtype in PACKED_BITS:
            values = unpack(self.data, self.dtype, self.elements)
        elif self.data.size % dtype.itemsize == 0:
            values = self.data.view(dtype)
        else:
            values = None
        is_shape = len(self.shape) <= _MOST_AXES and min(self.shape, default=0) >= 0
        if values is None or values.size != self.elements or not is_shape:
            raise FormatError(
                f"Tensor '{self.name}': {self.data.size} bytes are stored, but {self.dtype}{list(self.shape)} needs "
                f"{self.elements} elements. The file is damaged."
            )
        return values.reshape(self.shape)


@dataclass(frozen=True, eq=False)
class Node:
    """One operator. An absent optional input is the empty name.

    Attributes:
        op: the schema's name, such as ``CONV_2D``; ``CUSTOM`` has its name in `custom_code`.
        attrs: the operator's options by their schema names in snake_case; paddings and fused activations by
            name (``"SAME"``, ``"RELU6"``).
        version: the operator version that the runtime must know.
        extras: what else the file says about the node (custom options, intermediates, the table of its options where
            that is another than the operator's …).
    """

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Any] = field(default_factory=_nothing)
    version: int = 1
    custom_code: str | None = None
    extras: Mapping[str, Any] = field(default_factory=_nothing)

    @property
    def name(self) -> str:
        """The node's name in plans, rules and messages: its first output's, or else its operator and inputs."""
        return next((o for o in self.outputs if o), f"{self.op}({', '.join(self.inputs)})")


@dataclass(frozen=True, eq=False)
class Graph:
    """One subgraph: nodes in topological order over tensors by name."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    tensors: Mapping[str, Tensor]
    extras: Mapping[str, Any] = field(default_factory=_nothing)

    def __repr__(self) -> str:
        operators = _counted(node.op for node in self.nodes)
        return f"Graph '{self.name}' of {len(self.nodes)} operators ({operators}) and {len(self.tensors)} tensors"

    def float_inputs(self, node: Node) -> Iterator[tuple[int, Tensor]]:
        """Yields (position, tensor) of the node's float32 inputs."""
        for position, name in enumerate(node.inputs):
            if name and self.tensors[name].is_float:
                yield position, self.tensors[name]


@dataclass(frozen=True)
class Signature:
    """A named way to call one graph: public names of inputs and outputs, each with its tensor."""

    key: str
    inputs: tuple[tuple[str, str], ...]
    outputs: tuple[tuple[str, str], ...]
    graph: int = 0


@dataclass(frozen=True, eq=False)
class Model:
    """A whole file: the main graph, the graphs that its loops and branches call, and what describes them."""

    graphs: tuple[Graph, ...]
    signatures: tuple[Signature, ...] = ()
    metadata: Mapping[str, bytes | np.ndarray] = field(default_factory=_nothing)
    description: str = ""
    extras: Mapping[str, Any] = field(default_factory=_nothing)

    def __repr__(self) -> str:
        inputs, outputs = (self._ports(names) for names in io_names(self))
        constants = {id(t.data): t.stored_bytes for t in self.tensors.values() if t.is_constant}
        lines = [
            f"Model of {sum(len(graph.nodes) for graph in self.graphs)} operators in {len(self.graphs)} graph(s)",
            f"  inputs     {inputs}",
            f"  outputs    {outputs}",
            f"  operators  {_counted(node.op for graph in self.graphs for node in graph.nodes)}",
            f"  constants  {sum(constants.values()):,} bytes",
        ]
        return "\n".join(lines)

    def _ports(self, names: Mapping[str, str]) -> str:
        """Says names, types and shapes of inputs or outputs."""
        said: list[str] = []
        for name, tensor_name in names.items():
            tensor = self.main.tensors[tensor_name]
            sizes = ["any" if size == -1 else str(size) for size in tensor.shape_signature or tensor.shape]
            said.append(f"{name}: {tensor.dtype}[{', '.join(sizes)}]")
        return listed(said, 4) or "none"

    @property
    def main(self) -> Graph:
        """The graph that runs when the model is invoked."""
        return self.graphs[0]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors of all graphs by name, in the graphs' order."""
        return {name: tensor for graph in self.graphs for name, tensor in graph.tensors.items()}


def _counted(names: Iterable[str]) -> str:
    return listed((f"{count} {name}" for name, count in Counter(names).most_common()), 6) or "none"


def producers(graph: Graph) -> dict[str, Node]:
    """Maps every computed tensor to the node that computes it."""
    return {name: node for node in graph.nodes for name in node.outputs if name}


def consumers(graph: Graph) -> dict[str, tuple[Node, ...]]:
    """Maps every tensor that is read to the nodes that read it, each once."""
    found: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for name in dict.fromkeys(node.inputs):
            if name:
                found.setdefault(name, []).append(node)
    return {name: tuple(nodes) for name, nodes in found.items()}


def replace_graph(model: Model, index: int, graph: Graph) -> Model:
    """Returns the model with one of its graphs replaced."""
    graphs = list(model.graphs)
    graphs[index] = graph
    return replace(model, graphs=tuple(graphs))


def io_names(model: Model) -> tuple[dict[str, str], dict[str, str]]:
    """Returns (inputs, outputs) of the main graph: public name → tensor name, in the graph's order.

    Public names are those of the first signature of the main graph; tensors that it does not name, and models
    without one, use the tensors' own names, as they are in the file.
    """
    signature = next((s for s in model.signatures if s.graph == 0), None)
    inputs, outputs = (signature.inputs, signature.outputs) if signature else ((), ())
    tensors = model.main.tensors
    return _public_names(model.main.inputs, inputs, tensors), _public_names(model.main.outputs, outputs, tensors)


def _public_names(
    tensors: Iterable[str], named: Iterable[tuple[str, str]], known: Mapping[str, Tensor]
) -> dict[str, str]:
    """Maps public names to tensors, in the tensors' order; a tensor without one goes by its own, made unique.

    A tensor that occurs several times takes one of its names each time, and all that are left at last.
    """
    found: dict[str, str] = {}
    taken = {name for name, _ in named}
    left = list(tensors)
    while left:
        tensor = left.pop(0)
        own = known[tensor].file_name or tensor
        names = [name for name, its in named if its == tensor] or [fresh_name(own, taken | found.keys())]
        names = [name for name in names if name not in found]
        found |= dict.fromkeys(names[:1] if tensor in left else names, tensor)
    return found


def constant(name: str, array: np.ndarray, dtype: str | None = None, quant: QuantParams | None = None) -> Tensor:
    """Returns a constant tensor that holds a (packed, read-only) copy or view of `array`."""
    array = np.asarray(array)
    dtype = dtype or array.dtype.name
    shape = array.shape
    if dtype in PACKED_BITS:
        data = pack(array, dtype)
    else:
        data = np.ascontiguousarray(array, storage_dtype(dtype)).reshape(-1).view(np.uint8)
    data.flags.writeable = False
    return Tensor(name, shape, dtype, data, quant)


def fresh_name(wish: str, taken: Iterable[str]) -> str:
    """Returns `wish`, or `wish` with the first free number behind it."""
    taken = taken if isinstance(taken, (set, frozenset, dict)) else set(taken)
    if wish and wish not in taken:
        return wish
    number = 1
    while f"{wish}#{number}" in taken:
        number += 1
    return f"{wish}#{number}"


def present_names(model: Model) -> dict[str, str]:
    """Maps former names of tensors to those that they have."""
    return {tensor.former_name: name for name, tensor in model.tensors.items() if tensor.former_name}
