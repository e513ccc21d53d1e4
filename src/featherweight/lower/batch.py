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
from featherweight.lower.following import Places, found_places
from featherweight.lower.per_sample import gathered_rows, padded_and_added
from featherweight.lower.places import Place, one_of
from featherweight.operators import lookup
from featherweight.operators.families.recurrent import LSTM

_REGION_OPS = {
    "WHILE": "a loop",
    "IF": "a branch",
    "CALL": "a call",
    "STABLEHLO_WHILE": "a loop",
    LSTM: "a layer with its state",
}


class FixedBatchError(LoweringError):
    """The batch is fixed by an operator or by the source itself, however the graph is lowered."""


def restated(model: Model, inputs: Sequence[str], batch: int, *, is_free: bool = True) -> Model:
    """Returns the model at batch 1, with the batch of `inputs` (tensor names) free or fixed.

    Args:
        model: lowered with `batch` as the first size of `inputs`.
        inputs: the tensors whose first size becomes free.
        batch: from 2 on, where the batch lies in a tensor is certain; at 1 some of it is a guess (`following`).
        is_free: whether other batches than 1 are to fit.

    Raises:
        FixedBatchError: naming an operator that needs a fixed batch.
        LoweringError: if this graph's batch can't be told from its other sizes.
    """
    graph = model.main
    _refuse_regions(graph, inputs)
    places = found_places(graph, inputs, batch)
    tensors = {name: _at_one(tensor, places.get(name), batch, is_free) for name, tensor in graph.tensors.items()}
    nodes = [part for node in graph.nodes for part in _restated_node(node, graph, tensors, places, is_free)]
    return replace_graph(model, 0, replace(graph, nodes=tuple(nodes), tensors=_used(graph, nodes, tensors)))


def _refuse_regions(graph: Graph, inputs: Sequence[str]) -> None:
    """Raises FixedBatchError if what the inputs reach holds an operator made for one batch."""
    reached = set(inputs)
    for node in graph.nodes:
        if any(name in reached for name in node.inputs):
            reached.update(node.outputs)
            if node.op in _REGION_OPS:
                raise FixedBatchError(f"{node.op} '{node.name}' is {_REGION_OPS[node.op]}, made for a fixed batch")


def _restated_node(
    node: Node, graph: Graph, tensors: dict[str, Tensor], places: Places, is_free: bool
) -> tuple[Node, ...]:
    """Returns what stands for the node; new constants go into `tensors`."""
    place = places.get(node.outputs[0]) if node.outputs else None
    if place is None:
        return (node,)
    axes, position = lookup(node.op).axes, lookup(node.op).shape_operand
    if axes in ("slice", "strided_slice"):
        return (_freed_slice(node, graph, tensors, places[node.inputs[0]]),)
    is_row = axes == "slices" and graph.tensors[node.inputs[1]].is_constant
    if is_row and places[node.inputs[0]] == Place(0):  # Else the batch could not have been followed.
        return (gathered_rows(node, graph, tensors),)
    if axes == "concatenation" and is_free and any(tensors[name].is_constant for name in node.inputs):
        joined = padded_and_added(node, tensors, place)
        if joined is None:
            raise FixedBatchError(f"{node.op} '{node.name}' joins a constant to every sample")
        return joined
    if node.op == "BROADCAST_TO" and is_free:
        return (_tiled(node, graph, tensors),)
    return (node,) if position is None else (_resized(node, tensors, place, position, is_free),)


def _resized(node: Node, tensors: dict[str, Tensor], place: Place, position: int, is_free: bool) -> Node:
    """Returns the node with its shape constant at batch 1, or free."""
    if is_free and lookup(node.op).axes != "reshape":  # the only one that takes -1
        raise FixedBatchError(f"{node.op} '{node.name}' needs its output's batch as a constant")
    entries = np.array(tensors[node.outputs[0]].shape, np.int32)
    if is_free:
        entries[place.axis] = -1
    name = fresh_name(f"{node.name}/shape", tensors)
    tensors[name] = constant(name, entries)
    attrs = {**node.attrs, "new_shape": entries} if "new_shape" in node.attrs else node.attrs
    return replace(node, inputs=tuple(name if i == position else x for i, x in enumerate(node.inputs)), attrs=attrs)


def _tiled(node: Node, graph: Graph, tensors: dict[str, Tensor]) -> Node:
    """BROADCAST_TO as TILE, which says how often each axis is repeated: the batch once, whatever it is."""
    before, after = graph.tensors[node.inputs[0]].shape, graph.tensors[node.outputs[0]].shape
    if len(before) != len(after):
        raise FixedBatchError(f"{node.op} '{node.name}' adds axes, and needs its output's batch as a constant")
    name = fresh_name(f"{node.name}/multiples", tensors)
    tensors[name] = constant(name, np.array(after, np.int32) // np.maximum(before, 1).astype(np.int32))
    return Node("TILE", (node.inputs[0], name), node.outputs)


def _freed_slice(node: Node, graph: Graph, tensors: dict[str, Tensor], place: Place) -> Node:
    """A slice that takes the whole batch, whatever it is.

    SLICE becomes STRIDED_SLICE: LiteRT can't resize one whose size is "the rest" (-1), but this takes a mask.
    """
    axis, shape = place.axis, graph.tensors[node.inputs[0]].shape
    begin, end = (graph.tensors[name].array for name in node.inputs[1:3])
    if begin is None or end is None:
        raise LoweringError(f"{node.op} '{node.name}' begins or ends where the graph computes it")
    attrs, inputs = dict(node.attrs), list(node.inputs)
    if lookup(node.op).axes == "slice":
        size = end.reshape(-1)
        end = np.where(size < 0, shape, begin.reshape(-1) + size)
        values = {"begin": begin.reshape(-1), "end": end, "strides": np.ones_like(end)}
        for position, (what, value) in enumerate(values.items(), 1):
            inputs[position:] = [fresh_name(f"{node.name}/{what}", tensors)]
            tensors[inputs[position]] = constant(inputs[position], value.astype(np.int32))
        names = ("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask")
        attrs = {**dict.fromkeys(names, 0), "offset": False}
    elif int(attrs.get("new_axis_mask", 0)):
        raise LoweringError(f"STRIDED_SLICE '{node.name}' adds axes")
    if graph.tensors[node.outputs[0]].shape != () and _takes_part(node, graph, place):
        raise LoweringError(f"{node.op} '{node.name}' takes a part of the batch")
    for mask in ("begin_mask", "end_mask"):
        attrs[mask] = int(attrs.get(mask, 0)) | 1 << axis
    if lookup(node.op).axes == "strided_slice":
        return replace(node, attrs=attrs)
    return Node("STRIDED_SLICE", tuple(inputs), node.outputs, attrs)


def _takes_part(node: Node, graph: Graph, place: Place) -> bool:
    """Whether the slice leaves out elements of the axis that holds the batch."""
    begin = graph.tensors[node.inputs[1]].array
    masks = [int(node.attrs.get(name, 0)) >> place.axis & 1 for name in ("begin_mask", "end_mask")]
    size = graph.tensors[node.inputs[0]].shape[place.axis]
    end = graph.tensors[node.inputs[2]].array
    if begin is None or end is None:
        return True
    first, last = int(begin.reshape(-1)[place.axis]), int(end.reshape(-1)[place.axis])
    if lookup(node.op).axes == "slice":
        return first != 0 or last not in {-1, size}
    return not ((masks[0] or first == 0) and (masks[1] or last >= size))


def _at_one(tensor: Tensor, place: Place | None, batch: int, is_free: bool) -> Tensor:
    """Restates one tensor at batch 1, constants by their part for one sample."""
    if place is None:
        return tensor
    if tensor.is_constant:
        array = tensor.array
        part = None if array is None else one_of(array, place, batch)
        if part is None:
            raise LoweringError(f"Constant '{tensor.name}' differs from sample to sample")
        return replace(constant(tensor.name, part), file_name=tensor.file_name)
    shape, free = list(tensor.shape), list(tensor.shape)
    shape[place.axis] //= batch
    free[place.axis] = -1
    return replace(tensor, shape=tuple(shape), shape_signature=tuple(free) if is_free else None)


def _used(graph: Graph, nodes: Sequence[Node], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that are still referred to, in their order."""
    used = {*graph.inputs, *graph.outputs, *(name for n in nodes for name in (*n.inputs, *n.outputs))}
    return {name: tensor for name, tensor in tensors.items() if name in used}
