"""Which tensors hold infinity because a constant does: masks of attention, paddings before a largest value."""

from __future__ import annotations

import numpy as np

from featherweight.graph import Graph, Node, Tensor
from featherweight.operators import lookup
from featherweight.operators.relevance import (
    LARGEST_ORDINARY,
    of_exponential,
    of_larger,
    of_largest,
    of_rectified,
    of_saturated,
    of_smaller,
)
from featherweight.tflite import release_pages

# What these compute from an infinity is finite again, or a fault that is worth an error.
_ENDING = (of_rectified, of_saturated, of_exponential)
_ENDING_WEIGHTS = ("conv", "depthwise", "transposed", "dense", "recurrent")


def holding_infinity(graph: Graph, *, or_nan: bool = False) -> frozenset[str]:
    """Returns the float tensors, computed or constant, that may hold infinity, or a mask, because a constant does.

    It ends where the infinity does: in a softmax, a pooling, an exponential, beside a finite value of which the larger
    is taken, and in a comparison. A row of nothing but −∞ has no softmax: `or_nan` counts the NaN that comes out.
    """
    found = {name for name, tensor in graph.tensors.items() if holds_infinity(tensor)}
    for node in graph.nodes:
        goes_on = not _ends(node, found) and (or_nan or not lookup(node.op).normalizes_rows)
        if found and (goes_on or masking_bias(node, graph) is not None):
            found.update(name for name in node.outputs if graph.tensors[name].is_float)
    return frozenset(found)


def holds_infinity(tensor: Tensor) -> bool:
    """True for a float constant that holds infinity, or NaN, or finite numbers as large as masks are."""
    if not (tensor.is_float and tensor.is_constant) or "sparsity" in tensor.extras or not tensor.elements:
        return False
    is_ordinary = bool((np.abs(np.asarray(tensor.array)) < LARGEST_ORDINARY).all())
    release_pages(tensor.data)
    return not is_ordinary


def masking_bias(node: Node, graph: Graph) -> Tensor | None:
    """Returns the bias of an operator if a converter has folded a mask into it: it holds −∞, or numbers as low."""
    op = lookup(node.op)
    name = op.input_of(node, op.bias)
    bias = graph.tensors[name] if name else None
    if bias is None or not holds_infinity(bias):
        return None
    values = np.asarray(bias.array)
    is_mask = (values <= -LARGEST_ORDINARY).any() and (values < LARGEST_ORDINARY).all()
    return bias if is_mask else None


def _ends(node: Node, found: set[str]) -> bool:
    infinite = [name in found for name in node.inputs if name]
    op = lookup(node.op)
    return (
        op.relevant in _ENDING
        or (op.axes == "window" and op.relevant is of_largest)
        or op.axes == "product"
        or (op.has_integer_weights and op.weight_kind in _ENDING_WEIGHTS)
        or not any(infinite)
        or (op.relevant in (of_larger, of_smaller) and not all(infinite))
    )
