"""Front ends of signals: from an input through powers and sums to a logarithm or root, which integers can't follow.

The power of a spectrum reaches over as many decades as a logarithm is there to compress: in equal steps, all that is
quiet is 0. What is lost there, no later operator brings back, and a root or logarithm of it is noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from featherweight import operators
from featherweight.calibration import Stats
from featherweight.graph import Graph, Node, producers
from featherweight.graph.numerics import QuantParams
from featherweight.operators.call import fused_activation
from featherweight.ptq.factors import LEAST_DB
from featherweight.ptq.forms.decisions import Forms

# Front ends of audio have some twenty operators; a constant-Q transform of eight octaves has 170.
_MOST_OPERATORS = 512
# A magnitude is the root of a sum over so many parts at most: real and imaginary.
_MOST_PARTS = 2
_KINDS = ("conv", "depthwise", "dense", "transposed")


def coarse_front_ends(
    graph: Graph, stats: Stats, forms: Forms, params: Mapping[str, QuantParams]
) -> dict[str, tuple[Node, str]]:
    """Returns operator → (it, why it must be float) of the integer operators of front ends that lose what is quiet.

    Measured on what calibration saw: the noise of a value v in steps s is s² / 12 v² of it, and that of the logarithm
    or root as much, up to a factor.
    """
    found: dict[str, tuple[Node, str]] = {}
    made = producers(graph)
    for node in graph.nodes:
        measured = stats.tensors.get(node.inputs[0]) if _is_steep(node, graph) else None
        known = params.get(node.inputs[0]) if measured is not None else None
        if measured is None or measured.magnitudes is None or known is None or known.dtype not in LEAST_DB:
            continue
        values = np.abs(measured.magnitudes.values.astype(np.float64))
        noise = np.minimum(known.scale[0] ** 2 / 12 / np.maximum(values, 1e-30) ** 2, 1.0)
        share = float(measured.magnitudes.counts @ noise) / max(int(measured.magnitudes.counts.sum()), 1)
        ratio = -10 * math.log10(share) if share else math.inf
        front = front_end(node, graph, made) if ratio < LEAST_DB[known.dtype] else []
        for member in front:
            if forms.activation(member):
                reason = f"it leads from an input to {node.op} '{node.name}', of which steps leave {ratio:.0f} dB"
                found.setdefault(member.name, (member, reason))
    return found


def _is_steep(node: Node, graph: Graph) -> bool:
    """True for a root or logarithm, and a power with an exponent below one."""
    if not operators.lookup(node.op).is_steep_at_zero:
        return False
    exponents = [graph.tensors[name].array for name in node.inputs[1:]]
    return all(values is not None and bool((values < 1).all()) for values in exponents)


def front_end(node: Node, graph: Graph, made: Mapping[str, Node]) -> list[Node]:
    """Returns a node with all that it is computed from, if that is linear or a power, back to inputs; else none.

    On the way to an input, one path at least has no reduction, but for that of real and imaginary parts: the reciprocal
    root of a normalization has none such.
    """
    found: dict[str, Node] = {node.name: node}
    waiting, reached = [(name, True) for name in _computed(node, graph)], False
    seen: set[tuple[str, bool]] = set()
    while waiting:
        name, is_whole = waiting.pop()
        if (name, is_whole) in seen:
            continue
        seen.add((name, is_whole))
        maker = made.get(name)
        if name in graph.inputs:
            reached |= is_whole
        elif maker is None or not _is_plain(maker, graph) or len(found) == _MOST_OPERATORS:
            return []
        else:
            found[maker.name] = maker
            is_whole = is_whole and _keeps_rows(maker, graph)
            waiting += [(source, is_whole) for source in _computed(maker, graph)]
    return list(found.values()) if reached and len(found) > 1 else []


def _keeps_rows(node: Node, graph: Graph) -> bool:
    """True but for reductions of more than a few values to one."""
    if not operators.lookup(node.op).is_reduction:
        return True
    return graph.tensors[node.inputs[0]].elements <= _MOST_PARTS * graph.tensors[node.outputs[0]].elements


def _computed(node: Node, graph: Graph) -> list[str]:
    return [tensor.name for _, tensor in graph.float_inputs(node) if not tensor.is_constant]


def _is_plain(node: Node, graph: Graph) -> bool:
    """True for what moves, adds, multiplies and squares, and for what has constant weights and no activation."""
    op = operators.lookup(node.op)
    if fused_activation(node) != "NONE":
        return False
    if op.weight is not None:
        return op.weight_kind in _KINDS and graph.tensors[node.inputs[op.weight]].is_constant
    is_linear = op.is_mover or op.is_joint or op.is_product or op.is_reduction or op.axes == "product"
    return is_linear or op.is_even or op.is_steep_at_zero
