"""Rewrites of a float graph into operators that integer kernels exist for; each keeps what the graph computes.

A pass is ``Graph -> Graph``: equivalent up to float32 rounding, and idempotent. Tensors that other operators or the
caller can see keep their names; names that it adds are not among those `taken` in the whole model.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import replace
from typing import Any

import numpy as np

from featherweight.graph import Graph, Model, Node, replace_graph
from featherweight.graph.editor import Editor, is_plain, with_values, without_orphans, without_unused
from featherweight.operators import lookup
from featherweight.operators.call import FUSED_BOUNDS
from featherweight.passes.activations import recognized_activations, softmax_over_any_axis, without_signed_zeros
from featherweight.passes.branches import merged_branches
from featherweight.passes.composites import written_out
from featherweight.passes.folding import folded_constants, settled_conditions
from featherweight.passes.fusing import fused_activations
from featherweight.passes.masks import masks_without_row_maxima
from featherweight.passes.normalization import centred_normalization, squared_difference_as_product
from featherweight.tflite.decode_operator import with_plain_weights
from featherweight.tflite.sparse_tensors import decoded, is_sparse

Names = Set[str]
Pass = Callable[..., Graph]
_NOTHING: Names = frozenset()
# Fused activations that are operators of the same name.
_ALONE = frozenset(FUSED_BOUNDS) - {"NONE"}


def densified(graph: Graph, taken: Names = _NOTHING) -> Graph:
    """Constants that are stored sparsely become plain ones; a DENSIFY of one becomes the constant."""
    edit = Editor(graph)
    edit.tensors |= {name: decoded(tensor) for name, tensor in graph.tensors.items() if is_sparse(tensor)}
    for node in graph.nodes:
        if node.op == "DENSIFY" and (dense := edit.tensors[node.inputs[0]]).is_constant:
            edit.tensors[node.name] = replace(edit.tensors[node.name], data=dense.data)
        else:
            edit.nodes.append(node)
    return without_unused(edit.result(), before=graph)


def unpacked_float16(graph: Graph, taken: Names = _NOTHING) -> Graph:
    """A DEQUANTIZE of a float16 constant becomes the float32 constant: what a float16 file's weights are."""
    edit = Editor(graph)
    for node in graph.nodes:
        op = lookup(node.op)
        source = graph.tensors[node.inputs[0]] if op.is_conversion and op.unpacks else None
        if source is not None and source.dtype == "float16" and source.is_constant and not is_sparse(source):
            edit.tensors[node.name] = with_values(graph.tensors[node.name], np.asarray(source.array))
        else:
            edit.nodes.append(node)
    return without_unused(edit.result(), before=graph)


def negative_of_difference(graph: Graph, taken: Names = _NOTHING) -> Graph:
    """``SUB(0, x)`` becomes ``NEG(x)``; exact. A zero has no scale of its own that a difference could be taken at."""

    def is_negative(node: Node) -> bool:
        if not is_plain(node, "SUB") or not graph.tensors[node.name].is_float:
            return False
        zero, x = (graph.tensors[name] for name in node.inputs)
        return zero.is_constant and not np.asarray(zero.array).any() and x.shape == graph.tensors[node.name].shape

    edit = Editor(graph)
    for node in graph.nodes:
        if is_negative(node):
            edit.instead(node, "NEG", node.inputs[1:])
        else:
            edit.nodes.append(node)
    return edit.result()


def shared_twins(graph: Graph, taken: Names = _NOTHING) -> Graph:
    """An operator that is there twice, once with a fused activation, is computed once, with the activation behind it.

    Converters fuse ``relu(dense(x))`` and leave a second ``dense(x)`` to its other readers; exact.
    """
    weighted = [node for node in graph.nodes if lookup(node.op).weight is not None]
    plain = {_twin_key(node): node for node in reversed(weighted) if _fused(node) == "NONE"}
    twins = {n.name: plain[_twin_key(n)] for n in weighted if _fused(n) in _ALONE and _twin_key(n) in plain}
    edit, done = Editor(graph), set[str]()
    for node in graph.nodes:
        twin = twins.get(node.name, node)
        if twin.name not in done:
            edit.nodes.append(twin)
            done.add(twin.name)
        if twin is not node:
            edit.instead(node, _fused(node), (twin.name,))
    return edit.result()


def _fused(node: Node) -> str:
    return str(node.attrs.get("fused_activation_function", "NONE"))


def _twin_key(node: Node) -> tuple[Any, ...]:
    attrs = {key: repr(value) for key, value in node.attrs.items() if key != "fused_activation_function"}
    return node.op, node.inputs, tuple(sorted(attrs.items()))


def add_of_negative(graph: Graph, taken: Names = _NOTHING) -> Graph:
    """``ADD(a, NEG(b))`` becomes ``SUB(a, b)``; exact. NEG has no sound int8 kernel."""
    edit, negated = Editor(graph), {node.name: node.inputs[0] for node in graph.nodes if node.op == "NEG"}
    for node in graph.nodes:
        pairs = (node.inputs, node.inputs[::-1]) if node.op == "ADD" else ()
        found = next(((first, negated[second]) for first, second in pairs if second in negated), None)
        if found is None:
            edit.nodes.append(node)
        else:
            edit.instead(node, "SUB", found, **_activation(node))
    return without_orphans(edit.result(), graph, ("NEG",))


def negative_as_product(graph: Graph, taken: Names = _NOTHING) -> Graph:
    """``NEG(x)`` becomes ``MUL(x, -1)``; exact."""
    return _as_product(graph, lambda node: np.float32(-1.0) if node.op == "NEG" else None, taken)


def quotient_as_product(graph: Graph, taken: Names = _NOTHING) -> Graph:
    """``DIV(x, c)`` with a constant becomes ``MUL(x, 1 / c)``; within one unit in the last place."""

    def reciprocal(node: Node) -> np.ndarray | None:
        divisor = graph.tensors[node.inputs[1]] if node.op == "DIV" else None
        values = divisor.array if divisor is not None and divisor.is_float and divisor.is_constant else None
        if values is None:
            return None
        with np.errstate(divide="ignore", over="ignore"):
            factor = np.float32(1) / values
        return factor if np.isfinite(factor).all() else None

    return _as_product(graph, reciprocal, taken)


def _as_product(graph: Graph, factor_of: Callable[[Node], np.ndarray | np.float32 | None], taken: Names) -> Graph:
    """Replaces nodes for which there is a factor by MUL of their first input with it."""
    edit = Editor(graph, set(taken))
    for node in graph.nodes:
        is_real = node.inputs and node.inputs[0] and graph.tensors[node.inputs[0]].is_float
        factor = factor_of(node) if is_real else None
        if factor is None:
            edit.nodes.append(node)
        else:
            operands = node.inputs[0], edit.constant(f"{node.name}/factor", np.asarray(factor))
            edit.instead(node, "MUL", operands, **_activation(node))
    return edit.result()


def with_biases(graph: Graph, taken: Names = _NOTHING) -> Graph:
    """Operators whose kernels are right with a bias only get one of zeros."""
    edit = Editor(graph, set(taken))
    for node in graph.nodes:
        op = lookup(node.op)
        is_bare = op.bias is not None and not op.input_of(node, op.bias) and len(node.inputs) >= op.bias
        if is_bare and "float32" in op.biased and graph.tensors[node.name].is_float:
            zeros = np.zeros(graph.tensors[node.name].shape[-1], np.float32)
            bias = edit.constant(f"{node.name}/bias", zeros)
            edit.nodes.append(replace(node, inputs=(*node.inputs[: op.bias], bias)))
        else:
            edit.nodes.append(node)
    return edit.result()


def narrow_indices(graph: Graph, taken: Names = _NOTHING) -> Graph:
    """Constant sizes, places and axes of int64 become int32; the same numbers, which TFLite Micro reads as int32."""
    edit, made = Editor(graph, set(taken)), dict[str, str]()
    for node in graph.nodes:
        inputs = list(node.inputs)
        for position in lookup(node.op).indices:
            tensor = graph.tensors[inputs[position]] if position < len(inputs) and inputs[position] else None
            values = tensor.array if tensor is not None and tensor.is_constant and tensor.dtype == "int64" else None
            if tensor is None or values is None or np.abs(values).max(initial=0) > np.iinfo(np.int32).max:
                continue
            if tensor.name not in made:
                made[tensor.name] = edit.constant(f"{tensor.name}/int32", values.astype(np.int32))
            inputs[position] = made[tensor.name]
        edit.nodes.append(replace(node, inputs=tuple(inputs)))
    return without_unused(edit.result(), before=graph) if made else graph


def _activation(node: Node) -> dict[str, str]:
    """Returns the option that says which activation an operator ends in."""
    return {"fused_activation_function": node.attrs.get("fused_activation_function", "NONE")}


PASSES: tuple[Pass, ...] = (
    densified,
    unpacked_float16,
    folded_constants,
    settled_conditions,
    without_signed_zeros,
    shared_twins,
    recognized_activations,
    softmax_over_any_axis,
    masks_without_row_maxima,
    negative_of_difference,
    centred_normalization,
    squared_difference_as_product,
    add_of_negative,
    negative_as_product,
    quotient_as_product,
    merged_branches,
    fused_activations,
    with_biases,
    narrow_indices,
)


def prepare(model: Model, *, keep_layers: bool = False) -> Model:
    """Returns the model with its composites written out and all passes applied, in order, to all its graphs.

    Args:
        model: as it was read or lowered.
        keep_layers: leave branches as they are, for the sake of what knows the layers that they come from.

    Raises:
        FormatError: for encoded weights that can't be decoded.
    """
    model = written_out(with_plain_weights(model))
    for rewrite_graph in PASSES:
        if keep_layers and rewrite_graph is merged_branches:
            continue
        for index, graph in enumerate(model.graphs):
            model = replace_graph(model, index, rewrite_graph(graph, set(model.tensors)))
    return model
