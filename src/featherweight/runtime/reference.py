"""Runs models on the reference kernels of `operators`: node by node, in one arithmetic profile.

When a run begins, variable tensors (the state of fused recurrent layers) hold zero, as in a fresh session of LiteRT,
and variables what the model initializes them with. Both keep what nodes write to them to its end: over the parts of a
large batch too, so that rows of a model of batch 1 are steps. A model whose results shall not depend on what ran before
in the same session must itself write its state before it reads it.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from featherweight import operators, tflite
from featherweight.errors import DataError, FormatError, RecipeError, UnsupportedOp, listed
from featherweight.graph import Graph, Model, Node, Tensor, io_names
from featherweight.graph.numerics import storage_dtype
from featherweight.operators import profiles
from featherweight.operators.call import Call, tensors_of
from featherweight.operators.profiles import Profile
from featherweight.operators.walk import walk
from featherweight.runtime.batches import split
from featherweight.runtime.samples import checked_arrays, input_tensors
from featherweight.tflite.decode_operator import with_plain_weights
from featherweight.tflite.lean import lean


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
    # Of a model that is no file yet, what its file will hold: what runtimes do depends on what is left out.
    model = with_plain_weights(lean(model) if isinstance(model, Model) else tflite.read(model))
    chosen = profiles.find(profile) if isinstance(profile, str) else profile
    fed = input_tensors(model)
    wanted = io_names(model)[1] if keep is None else {name: name for name in keep}
    for name in wanted.values():
        if name not in model.main.tensors:
            raise RecipeError(
                f"tensor '{name}' is not in the model's main graph; it can't be kept. `inspect` lists the names."
            )
    parts = split(checked_arrays(inputs, fed, finite=False), fed)
    kept = frozenset(wanted.values())
    execution = Execution(model, chosen)
    results = [
        evaluate(execution, model.main, {fed[name].name: array for name, array in part.items()}, kept) for part in parts
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


@dataclass(frozen=True, eq=False)
class Execution:
    """A model in one arithmetic.

    Attributes:
        state: the values that variable tensors have by now, by name.
        kept: the values of variables, by name.
        running: the graphs that are being computed, each called by another.
    """

    model: Model
    profile: Profile
    state: dict[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])
    kept: dict[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])
    running: tuple[int, ...] = (0,)


def computed_tensors(graph: Graph) -> tuple[str, ...]:
    """Returns the names of the tensors that the graph's nodes compute, in order."""
    return tuple(name for node in graph.nodes for name in node.outputs if name)


def evaluate(
    execution: Execution, graph: Graph, fed: Mapping[str, np.ndarray], kept: Collection[str]
) -> dict[str, np.ndarray]:
    """Computes a graph from its fed tensors; returns the kept ones. Others are freed after their last reader.

    Raises:
        DataError: if an accumulator overflows.
        UnsupportedOp: if there is no kernel for an operator, its type or an attribute.
    """

    def held(tensor: Tensor) -> np.ndarray | None:
        return _variable(execution, tensor) if tensor.is_variable else tensor.array

    def compute(node: Node, arrays: tuple[np.ndarray | None, ...]) -> Iterator[tuple[Tensor, np.ndarray]]:
        intermediates = tuple(graph.tensors[name] for name in node.extras.get("intermediates", ()) if name)
        run_graph = functools.partial(_run_graph, execution)
        inputs, outputs = tensors_of(node, graph)
        call = Call(
            node, arrays, inputs, outputs, execution.profile, run_graph, intermediates, graph.tensors, execution.kept
        )
        if reason := operators.refusal(call):
            raise UnsupportedOp(f"{call.place}: LiteRT can't compute it: {reason}. Keep it float, or quantize it anew.")
        with np.errstate(all="ignore"):  # what is beyond float32 goes through, as on devices
            found = _kernel(node, graph)(call)
        # Behind its outputs, a kernel returns the new values of the variable tensors that it read.
        variables = [tensor for tensor in inputs if tensor is not None and tensor.is_variable]
        written = outputs if len(found) == len(outputs) else (*outputs, *variables)
        for tensor, array in zip(written, found, strict=True):
            if tensor.is_variable:
                execution.state[tensor.name] = _checked(node, tensor, array)
            else:
                yield tensor, _checked(node, tensor, array)

    return walk(graph, fed, kept, held, compute)


def _run_graph(execution: Execution, index: int, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """Runs a graph that a node calls; returns its outputs.

    Raises:
        FormatError: if there is no such graph, it wants another number of inputs, or it is the one that calls.
    """
    graphs = execution.model.graphs
    if not 0 <= index < len(graphs) or len(graphs[index].inputs) != len(arrays):
        raise FormatError(
            f"A node calls graph {index} with {len(arrays)} inputs; the model has no such graph among its "
            f"{len(graphs)}. The file is damaged."
        )
    if index in execution.running:
        raise FormatError(f"Graph {index} calls itself. The file is damaged.")
    graph, execution = graphs[index], replace(execution, running=(*execution.running, index))
    found = evaluate(execution, graph, dict(zip(graph.inputs, arrays, strict=True)), graph.outputs)
    return tuple(found[name] for name in graph.outputs)


def _variable(execution: Execution, tensor: Tensor) -> np.ndarray:
    """Returns the value of a variable; LiteRT begins with zeros, which are zero points in int8 and else zero bits."""
    if tensor.name not in execution.state:
        zero = tensor.quant.zero_point[0] if tensor.dtype == "int8" and tensor.quant else 0
        execution.state[tensor.name] = np.full(tensor.shape, zero, storage_dtype(tensor.dtype))
    return execution.state[tensor.name]


def _kernel(node: Node, graph: Graph) -> operators.Kernel:
    """Returns the kernel for the node's form."""
    op = operators.lookup(node.custom_code or node.op)
    place = f"{node.op} '{node.name}'"
    if not op.kernels:
        raise UnsupportedOp(
            f"{place}: the operator has no reference kernel (supported: "
            f"{listed((op.name for op in operators.registered() if op.kernels), limit=200)}). "
            "Run it with runtime 'litert'."
        )
    form = op.form(node, graph)
    kernel = op.kernels.get(form) or op.kernels.get("*")
    if kernel is None:
        raise UnsupportedOp(
            f"{place}: no reference kernel for the form {form or 'without inputs'} (supported: "
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
