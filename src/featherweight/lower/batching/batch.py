"""Frees the batch dimension of a graph that was lowered at a fixed batch.

Lowering with a symbolic batch leaves batch norms unfolded and shapes computed at run time. So a graph is lowered at a
fixed batch, and the batch is freed afterwards: constants that say a shape lose their batch entry. Whether the result
is right at other batches is for the caller to verify.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from featherweight.errors import LoweringError
from featherweight.graph import Graph, Model, Node, Tensor, constant, replace_graph
from featherweight.graph.editor import Editor, without_unused
from featherweight.lower.batching.following import Places, found_places
from featherweight.lower.batching.per_sample import gather_rows, pad_and_add
from featherweight.lower.batching.places import Place, one_of
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
    edit = Editor(graph, set(model.tensors))
    edit.tensors |= {name: _at_one(tensor, places.get(name), batch, is_free) for name, tensor in graph.tensors.items()}
    for node in graph.nodes:
        _restate(edit, node, places, is_free)
    return replace_graph(model, 0, without_unused(edit.result()))


def _refuse_regions(graph: Graph, inputs: Sequence[str]) -> None:
    """Raises FixedBatchError if what the inputs reach holds an operator made for one batch."""
    reached = set(inputs)
    for node in graph.nodes:
        if any(name in reached for name in node.inputs):
            reached.update(node.outputs)
            if node.op in _REGION_OPS:
                raise FixedBatchError(f"{node.op} '{node.name}' is {_REGION_OPS[node.op]}, made for a fixed batch")


def _restate(edit: Editor, node: Node, places: Places, is_free: bool) -> None:
    """Adds what stands for the node at batch 1."""
    place = places.get(node.outputs[0]) if node.outputs else None
    axes = lookup(node.op).axes
    is_row = axes == "slices" and edit.graph.tensors[node.inputs[1]].is_constant
    if place is None:
        edit.nodes.append(node)
    elif axes in ("slice", "strided_slice"):
        _free_slice(edit, node, places[node.inputs[0]])
    elif is_row and places[node.inputs[0]] == Place(0):  # Else the batch could not have been followed.
        gather_rows(edit, node)
    elif axes == "concatenation" and is_free and any(edit.tensors[name].is_constant for name in node.inputs):
        if not pad_and_add(edit, node, place):
            raise FixedBatchError(f"{node.op} '{node.name}' joins a constant to every sample")
    elif node.op == "BROADCAST_TO" and is_free:
        _tile(edit, node)
    elif (position := lookup(node.op).shape_operand) is not None:
        _resize(edit, node, place, position, is_free)
    else:
        edit.nodes.append(node)


def _resize(edit: Editor, node: Node, place: Place, position: int, is_free: bool) -> None:
    """Adds the node with its shape constant at batch 1, or free."""
    if is_free and lookup(node.op).axes != "reshape":  # the only one that takes -1
        raise FixedBatchError(f"{node.op} '{node.name}' needs its output's batch as a constant")
    entries = np.array(edit.tensors[node.name].shape, np.int32)
    if is_free:
        entries[place.axis] = -1
    shape = edit.constant(f"{node.name}/shape", entries)
    inputs = tuple(shape if i == position else name for i, name in enumerate(node.inputs))
    attrs = {**node.attrs, "new_shape": entries} if "new_shape" in node.attrs else node.attrs
    edit.nodes.append(replace(node, inputs=inputs, attrs=attrs))


def _tile(edit: Editor, node: Node) -> None:
    """BROADCAST_TO as TILE, which says how often each axis is repeated: the batch once, whatever it is."""
    before, after = (edit.graph.tensors[name].shape for name in (node.inputs[0], node.name))
    if len(before) != len(after):
        raise FixedBatchError(f"{node.op} '{node.name}' adds axes, and needs its output's batch as a constant")
    multiples = np.array(after, np.int32) // np.maximum(before, 1).astype(np.int32)
    edit.instead(node, "TILE", (node.inputs[0], edit.constant(f"{node.name}/multiples", multiples)))


def _free_slice(edit: Editor, node: Node, place: Place) -> None:
    """A slice that takes the whole batch, whatever it is.

    SLICE becomes STRIDED_SLICE: LiteRT can't resize one whose size is "the rest" (-1), but this takes a mask.
    """
    graph, axis, is_strided = edit.graph, place.axis, lookup(node.op).axes == "strided_slice"
    begin, end = (graph.tensors[name].array for name in node.inputs[1:3])
    if begin is None or end is None:
        raise LoweringError(f"{node.op} '{node.name}' begins or ends where the graph computes it")
    if is_strided and int(node.attrs.get("new_axis_mask", 0)):
        raise LoweringError(f"STRIDED_SLICE '{node.name}' adds axes")
    if graph.tensors[node.name].shape != () and _takes_part(node, graph, place):
        raise LoweringError(f"{node.op} '{node.name}' takes a part of the batch")
    masks = {mask: int(node.attrs.get(mask, 0)) | 1 << axis for mask in ("begin_mask", "end_mask")}
    if is_strided:
        edit.nodes.append(replace(node, attrs={**node.attrs, **masks}))
        return
    begin, size = begin.reshape(-1), end.reshape(-1)
    end = np.where(size < 0, graph.tensors[node.inputs[0]].shape, begin + size)
    values = {"begin": begin, "end": end, "strides": np.ones_like(end)}
    bounds = [edit.constant(f"{node.name}/{what}", value.astype(np.int32)) for what, value in values.items()]
    edit.instead(node, "STRIDED_SLICE", (node.inputs[0], *bounds), **masks)


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
