"""Frees the batch dimension of a graph that was lowered at a fixed batch.

Lowering with a symbolic batch leaves batch norms unfolded and shapes computed at run time. So a graph is lowered at a
fixed batch, and the batch is freed afterwards: constants that say a shape lose their batch entry. Whether the result
is right at other batches is for the caller to verify.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from featherweight.errors import LoweringError
from featherweight.graph import Graph, Model, Node, Tensor, constant, fresh_name, replace_graph
from featherweight.ops.recurrent import LSTM

# Operators with a constant that says their output's sizes: the position of that operand.
_SHAPE_OPERAND = {"RESHAPE": 1, "SLICE": 2, "STRIDED_SLICE": 2}
# Operators that need their output's shape as a plain constant: -1 is not an answer there.
_NEED_SIZES = {"TRANSPOSE_CONV": 0, "CONV_3D_TRANSPOSE": 0, "BROADCAST_TO": 1, "FILL": 0}
_REGION_OPS = {
    "WHILE": "a loop",
    "IF": "a branch",
    "CALL": "a call",
    "STABLEHLO_WHILE": "a loop",
    LSTM: "a layer with its state",
}


class FixedBatchError(LoweringError):
    """The graph holds an operator that needs a fixed batch, however the graph was lowered."""


def freed(model: Model, inputs: Sequence[str], batch: int) -> Model:
    """Returns the model with the batch of `inputs` (tensor names) free, restated at batch 1.

    Args:
        model: lowered with `batch` as the first size of `inputs`.
        inputs: the tensors whose first size becomes free.
        batch: 1, where an entry of 1 in front is taken for the batch; or a prime that divides no other size of the
            model, so that it can be told from them anywhere.

    Raises:
        FixedBatchError: naming an operator that needs a fixed batch.
        LoweringError: if this graph's batch can't be told from its other sizes.
    """
    graph = model.main
    dynamic = _depending_on(graph, inputs)
    tensors = dict(graph.tensors)
    nodes = [_freed_node(node, tensors, dynamic, batch) for node in graph.nodes]
    if batch > 1:
        tensors = {name: _at_one(tensor, name in dynamic, batch) for name, tensor in tensors.items()}
    for name in inputs:
        tensors[name] = replace(tensors[name], shape_signature=(-1, *tensors[name].shape[1:]))
    return replace_graph(model, 0, replace(graph, nodes=tuple(nodes), tensors=_used(graph, nodes, tensors)))


def with_signatures(model: Model, shapes: Mapping[str, tuple[int, ...]], batch: int) -> Model:
    """Marks the free sizes of the main graph, given its tensors' shapes, by name, as inferred at another batch."""
    graph = model.main
    tensors = dict(graph.tensors)
    for tensor in graph.tensors.values():
        seen = shapes.get(tensor.name, tensor.shape)
        if tensor.is_constant or len(seen) != len(tensor.shape) or seen == tensor.shape:
            continue
        signature = tuple(-1 if s == batch * t else t for t, s in zip(tensor.shape, seen, strict=True))
        tensors[tensor.name] = replace(tensor, shape_signature=signature)
    return replace_graph(model, 0, replace(graph, tensors=tensors))


def telling_batch(model: Model) -> int:
    """The smallest prime, from 7 on, that divides no size of the model's tensors: a batch that stands out."""
    sizes = {size for graph in model.graphs for t in graph.tensors.values() for size in t.shape}
    sizes |= {int(v) for g in model.graphs for t in g.tensors.values() for v in _small_integers(t)}
    primes = (n for n in range(7, 10_000) if all(n % d for d in range(2, int(n**0.5) + 1)))
    return next(prime for prime in primes if all(size % prime for size in sizes if size))


def _small_integers(tensor: Tensor) -> np.ndarray:
    if tensor.dtype in {"int32", "int64"} and tensor.data is not None and tensor.elements <= 8:
        array = tensor.array
        return array.reshape(-1) if array is not None else np.zeros(0, int)
    return np.zeros(0, int)


def _depending_on(graph: Graph, inputs: Sequence[str]) -> set[str]:
    found = set(inputs)
    for node in graph.nodes:
        if any(name in found for name in node.inputs):
            found.update(node.outputs)
    return found


def _freed_node(node: Node, tensors: dict[str, Tensor], dynamic: set[str], batch: int) -> Node:
    """Returns the node with its shape constant freed; a new constant goes into `tensors`."""
    if not any(name in dynamic for name in node.inputs):
        return node
    if node.op in _REGION_OPS:
        raise FixedBatchError(f"{node.op} '{node.name}' is {_REGION_OPS[node.op]}, made for a fixed batch")
    position = _SHAPE_OPERAND.get(node.op, _NEED_SIZES.get(node.op))
    shape = tensors.get(node.inputs[position]) if position is not None and position < len(node.inputs) else None
    values = shape.array if shape is not None and shape.is_constant else None
    if position is None or values is None:
        return node
    entries = values.reshape(-1).astype(int)
    output = tensors[node.outputs[0]].shape
    free = [i for i in range(len(entries)) if _is_batch(int(entries[i]), i, batch, output)]
    if not free:
        return node
    if node.op in _NEED_SIZES:
        raise FixedBatchError(f"{node.op} '{node.name}' needs its output's batch as a constant")
    if len(free) > 1 and node.op == "RESHAPE":
        raise LoweringError(f"RESHAPE '{node.name}' spreads the batch over {len(free)} dimensions")
    attrs = dict(node.attrs)
    if node.op == "SLICE":
        return _strided(node, tensors, entries, free)
    if node.op == "STRIDED_SLICE":
        attrs["end_mask"] = int(attrs.get("end_mask", 0)) | sum(1 << i for i in free)
        return replace(node, attrs=attrs)
    entries[free] = -1
    if "new_shape" in attrs:
        attrs["new_shape"] = entries.astype(np.int32)
    name = fresh_name(f"{node.name}/shape", tensors)
    tensors[name] = constant(name, entries.astype(values.dtype))
    inputs = tuple(name if i == position else old for i, old in enumerate(node.inputs))
    return replace(node, inputs=inputs, attrs=attrs)


def _strided(node: Node, tensors: dict[str, Tensor], sizes: np.ndarray, free: Sequence[int]) -> Node:
    """A SLICE as STRIDED_SLICE: LiteRT can't resize a SLICE whose size is "the rest" (-1), but this takes a mask."""
    begin = tensors[node.inputs[1]].array
    if begin is None:
        raise LoweringError(f"SLICE '{node.name}' begins where the graph computes it")
    values = {"begin": begin.reshape(-1), "end": begin.reshape(-1) + sizes, "strides": np.ones_like(sizes)}
    names: list[str] = []
    for what, value in values.items():
        names.append(fresh_name(f"{node.name}/{what}", tensors))
        tensors[names[-1]] = constant(names[-1], value.astype(np.int32))
    mask = sum(1 << i for i in free)
    attrs = {"begin_mask": mask, "end_mask": mask, "ellipsis_mask": 0, "new_axis_mask": 0, "shrink_axis_mask": 0}
    attrs["offset"] = False
    extras = {"options": "StridedSliceOptions"}
    return Node("STRIDED_SLICE", (node.inputs[0], *names), node.outputs, attrs, extras=extras)


def _is_batch(entry: int, index: int, batch: int, output: Sequence[int]) -> bool:
    """Whether an entry of a shape constant holds the batch (see `freed`); a size of -1 is as free as can be."""
    if batch == 1:
        return index == 0 and entry == 1 and len(output) > 0 and output[0] == 1
    return entry > 0 and entry % batch == 0


def _at_one(tensor: Tensor, is_dynamic: bool, batch: int) -> Tensor:
    """Restates one tensor at batch 1: computed ones by their shape, constants by one of their equal slices."""
    axes = [i for i, size in enumerate(tensor.shape) if size and size % batch == 0]
    if not axes:
        return tensor
    shape = tuple(size // batch if i in axes else size for i, size in enumerate(tensor.shape))
    if not tensor.is_constant:
        return replace(tensor, shape=shape)
    array = tensor.array
    if array is None or len(axes) > 1:
        raise LoweringError(f"Constant '{tensor.name}' holds the batch in {len(axes)} dimensions")
    parts = np.split(array, batch, axis=axes[0])
    if any(not np.array_equal(parts[0], part) for part in parts[1:]):
        raise LoweringError(f"Constant '{tensor.name}' differs from sample to sample")
    return replace(constant(tensor.name, parts[0]), file_name=tensor.file_name)


def _used(graph: Graph, nodes: Sequence[Node], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that are still referred to, in their order."""
    used = {*graph.inputs, *graph.outputs, *(name for n in nodes for name in (*n.inputs, *n.outputs))}
    return {name: tensor for name, tensor in tensors.items() if name in used}
