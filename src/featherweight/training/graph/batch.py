"""Batches other than the one that a graph was lowered at."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import keras
import numpy as np

from featherweight.graph import Graph, Model, Node, Tensor
from featherweight.operators import AxesRule, lookup
from featherweight.training.graph.registry import Array, ops

# Row n of the outputs comes from row n of the inputs, whatever the options say.
_ROWWISE: tuple[AxesRule, ...] = ("same", "convolution", "depthwise", "window", "space_to_depth", "depth_to_space")


def fixed_batch(model: Model) -> int | None:
    """Returns the batch that the graph must be run at, or None where any will do.

    A graph of fixed batch does any other if it treats every row alike (a transposed convolution, for example, has a
    fixed batch in the file because its output's shape is a constant there). Loops don't: they carry values made for
    the batch, so their graphs are mapped over the examples.
    """
    graph = model.main
    tensors = [graph.tensors[name] for name in graph.inputs]
    signatures = [tensor.shape_signature for tensor in tensors]
    if any(signature is not None and -1 in signature for signature in signatures):
        return None
    batches = {tensor.shape[0] for tensor in tensors if tensor.shape}
    if len(batches) != 1 or any(not tensor.shape for tensor in tensors):
        return None
    batch = batches.pop()
    return None if _treats_rows_alike(graph, batch) else batch


def at_fixed_batch(
    run: Callable[[Mapping[str, Array]], dict[str, Array]], fed: Mapping[str, Array], batch: int
) -> dict[str, Array]:
    """Returns what `run`, which takes `batch` rows at a time, makes of any multiple of them."""
    rows = {value.shape[0] for value in fed.values()}
    if rows == {batch}:
        return run(fed)
    parts = {name: ops.reshape(value, (-1, batch, *value.shape[1:])) for name, value in fed.items()}
    # Functions with gradients of their own: torch's vmap refuses them, TensorFlow's loses their gradients.
    mapped = (ops.vectorized_map if keras.backend.backend() == "jax" else ops.map)(run, parts)
    return {name: ops.reshape(value, (-1, *value.shape[2:])) for name, value in mapped.items()}


def _treats_rows_alike(graph: Graph, batch: int) -> bool:
    dynamic = set(graph.inputs)
    for node in graph.nodes:
        if not dynamic.intersection(node.inputs):
            continue
        inputs = [(graph.tensors[name], name in dynamic) for name in node.inputs if name]
        outputs = [graph.tensors[name] for name in node.outputs]
        if any(not tensor.shape or tensor.shape[0] != batch for tensor in outputs):
            return False
        if not _is_rowwise(node, inputs, [graph.tensors[name] if name else None for name in node.inputs]):
            return False
        dynamic.update(node.outputs)
    return True


def _is_rowwise(node: Node, inputs: list[tuple[Tensor, bool]], operands: list[Tensor | None]) -> bool:
    """True where row n of the outputs comes from row n of the computed inputs; outputs have a row for each."""
    fed = [tensor for tensor, is_dynamic in inputs if is_dynamic]
    rank = len(fed[0].shape)
    axes = lookup(node.op).axes
    if axes in _ROWWISE:
        return True
    if axes == "joined":
        constants = [tensor for tensor, is_dynamic in inputs if not is_dynamic]
        return all(len(tensor.shape) == rank for tensor in fed) and all(
            len(tensor.shape) < rank or tensor.shape[0] == 1 for tensor in constants
        )
    if axes == "recurrent":
        return not node.attrs.get("time_major")
    if axes == "normalization":
        return rank > 1
    if axes == "dense":
        return rank == 2 or bool(node.attrs.get("keep_num_dims"))
    if axes == "concatenation":
        return len(fed) == len(inputs) and int(node.attrs.get("axis", 0)) % rank != 0
    values = [None if tensor is None or not tensor.is_constant else tensor.array for tensor in operands]
    if len(values) < 2 or values[1] is None:
        return False
    first = np.asarray(values[1]).reshape(-1)
    if axes == "reshape":
        return first[0] in (fed[0].shape[0], -1)
    if axes == "transpose":
        return first[0] == 0
    if axes in ("pad", "mirror"):
        return not first[:2].any()
    return lookup(node.op).is_reduction and not (first % rank == 0).any()
