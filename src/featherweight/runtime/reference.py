"""Runs models on the reference kernels of `ops`: the main graph, node by node, in one arithmetic profile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from featherweight import ops, profiles, tflite
from featherweight.errors import DataError, RecipeError, UnsupportedOp, listed
from featherweight.graph import Graph, Model, Node, Tensor, io_names
from featherweight.numerics import storage_dtype
from featherweight.ops.calls import Call
from featherweight.profiles import Profile
from featherweight.runtime.batches import split
from featherweight.runtime.samples import checked_arrays, input_tensors


def run_reference(
    model: Model | bytes | str | Path,
    inputs: Any,
    profile: str | Profile = "xnnpack",
    *,
    keep: Sequence[str] | None = None,
) -> dict[str, np.ndarray]:
    """Runs a model on the reference kernels; returns public output name → array.

    With `keep`, returns those tensors of the main graph by their own names instead. A batch larger than the model's
    fixed one is run in parts.

    Raises:
        RecipeError: if the profile, or a tensor to keep, is unknown.
        DataError: if the inputs don't fit the model, or an accumulator overflows.
        UnsupportedOp: if there is no kernel for an operator, its type or an attribute.
    """
    model = model if isinstance(model, Model) else tflite.read(model)
    chosen = profiles.find(profile) if isinstance(profile, str) else profile
    fed = input_tensors(model)
    wanted = io_names(model)[1] if keep is None else {name: name for name in keep}
    for name in wanted.values():
        if name not in model.main.tensors:
            raise RecipeError(f"tensor '{name}' is not in the model's main graph; it can't be kept.")
    parts = split(checked_arrays(inputs, fed, finite=False), fed)
    kept = frozenset(wanted.values())
    results = [
        evaluate(model.main, {fed[name].name: array for name, array in part.items()}, chosen, kept) for part in parts
    ]
    if len(results) == 1:
        return {public: results[0][name] for public, name in wanted.items()}
    rows = next(iter(parts[0].values())).shape[0]
    for public, name in wanted.items():
        if results[0][name].shape[:1] != (rows,):
            raise DataError(
                f"tensor '{public}' of shape {list(results[0][name].shape)} has no batch dimension: {len(parts)} runs "
                f"can't be joined. Give {rows} example(s) at a time."
            )
    return {public: np.concatenate([result[name] for result in results]) for public, name in wanted.items()}


def computed_tensors(graph: Graph) -> tuple[str, ...]:
    """Returns the names of the tensors that the graph's nodes compute, in order."""
    return tuple(name for node in graph.nodes for name in node.outputs if name)


def evaluate(
    graph: Graph, fed: Mapping[str, np.ndarray], profile: Profile, kept: frozenset[str]
) -> dict[str, np.ndarray]:
    """Computes a graph from its fed tensors; returns the kept ones. Others are freed after their last reader.

    Raises:
        DataError: if an accumulator overflows.
        UnsupportedOp: if there is no kernel for an operator, its type or an attribute.
    """
    last = {name: index for index, node in enumerate(graph.nodes) for name in node.inputs if name}
    values = dict(fed)
    for name in kept:
        array = graph.tensors[name].array
        if array is not None:
            values[name] = array
    for index, node in enumerate(graph.nodes):
        arrays = tuple(_value(graph, values, name, node) if name else None for name in node.inputs)
        inputs = tuple(graph.tensors[name] if name else None for name in node.inputs)
        outputs = tuple(graph.tensors[name] for name in node.outputs)
        found = _kernel(node, inputs)(Call(node, arrays, inputs, outputs, profile))
        for tensor, array in zip(outputs, found, strict=True):
            values[tensor.name] = _checked(node, tensor, array)
        for name in {*node.inputs, *node.outputs}:
            if last.get(name, -1) <= index and name not in kept:
                values.pop(name, None)
    return {name: values[name] for name in kept}


def _value(graph: Graph, values: Mapping[str, np.ndarray], name: str, node: Node) -> np.ndarray:
    if name in values:
        return values[name]
    array = graph.tensors[name].array
    if array is None:
        raise UnsupportedOp(
            f"{node.op} '{node.name}': tensor '{name}' has no value (variable tensors are not supported by "
            "the reference kernels). Run it with runtime 'litert'."
        )
    return array


def _kernel(node: Node, inputs: Sequence[Tensor | None]) -> ops.Kernel:
    """Returns the kernel for the type of the node's activation."""
    op = ops.lookup(node.op)
    place = f"{node.op} '{node.name}'"
    if not op.kernels:
        raise UnsupportedOp(
            f"{place}: the operator has no reference kernel (supported: "
            f"{listed((o.name for o in ops.registered() if o.kernels), limit=200)}). Run it with runtime 'litert'."
        )
    tensor = inputs[op.activation] if op.activation < len(inputs) else None
    dtype = tensor.dtype if tensor else ""
    kernel = op.kernels.get(dtype) or op.kernels.get("*")
    if kernel is None:
        raise UnsupportedOp(
            f"{place}: no reference kernel for activations of type {dtype or 'none'} (supported: "
            f"{listed(op.kernels)}). Run it with runtime 'litert'."
        )
    return kernel


def _checked(node: Node, tensor: Tensor, array: np.ndarray) -> np.ndarray:
    """Raises where a kernel's result has not the type that the file says."""
    if array.dtype != storage_dtype(tensor.dtype):
        raise UnsupportedOp(
            f"{node.op} '{node.name}': the reference kernel gives {array.dtype}, but the file says {tensor.dtype} for "
            f"'{tensor.name}'; this mixture of types is not supported. Run it with runtime 'litert'."
        )
    return array
