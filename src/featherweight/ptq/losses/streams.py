"""Rows that are normalized, and the stream of sums that they come from: whose steps are too coarse for them.

A normalization lifts a row of small values to the size of all others, and with it the steps that its values were
rounded to: those of the tensor that it is cut out of, too. In a residual stream, the steps of all sums before add up.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from featherweight import operators
from featherweight.calibration.details import Magnitudes
from featherweight.graph import Graph, Node, Tensor, producers
from featherweight.graph.numerics import QuantParams
from featherweight.ptq.factors import company, smallest
from featherweight.ptq.forms.decisions import Forms
from featherweight.ptq.partners import is_passed

# What a tensor that is normalized, or a part of it, must leave of the usual row by its own steps.
_LEAST_DB = {"int8": 30.0, "int16": 45.0}
# What all steps that have added up must leave of the smallest rows: the layers behind cost about as much once more.
_LEAST_OF_FEW_DB = {"int8": 25.0, "int16": 45.0}


class _Part(NamedTuple):
    """A tensor that a stream is added up from: what computes it, in which integers, and the power of its steps."""

    node: Node
    dtype: str
    noise: float


def coarse_sources(
    node: Node, graph: Graph, magnitudes: Magnitudes, forms: Forms, params: Mapping[str, QuantParams]
) -> Iterator[tuple[Node, str]]:
    """Yields (operator, reason) for the integer operators whose steps are too coarse for the rows that a factor is for.

    They are those that compute what it normalizes, whether at once or as parts of sums. The noise of a row of mean
    square v is ``s² / 12 v`` for each tensor of steps s. Where those of a stream's integer sums add up to too much, all
    of these sums are too coarse: between two of them that are rounded, nothing is won by one that is not.
    """
    means = magnitudes.values.astype(np.float64)
    is_positive = means > 0
    means, counts = means[is_positive], magnitudes.counts[is_positive].astype(np.float64)
    if not counts.size:
        return
    few = smallest(means, counts)
    parts, sums = _stream(node, graph, forms, params)
    rows = f"rows that {node.op} '{node.name}' normalizes"
    found = set[str]()
    for part in parts:
        ratio = _ratio_db(part.noise, means, counts)
        if ratio < _LEAST_DB[part.dtype]:
            found.add(part.node.name)
            yield part.node, f"steps of its output leave {ratio:.0f} dB in {rows}"
    left = [part for part in (*parts, *sums) if part.node.name not in found]
    for part, ratio in _adding_up(left, means, few):
        what = f"the steps of {len(left)} tensors that add up in" if len(left) > 1 else "steps of its output in"
        yield part.node, f"{what} the smallest {rows} leave {ratio:.0f} dB"


def _adding_up(parts: Sequence[_Part], means: np.ndarray, few: np.ndarray) -> Iterator[tuple[_Part, float]]:
    """Yields the parts that must not be rounded for the smallest rows to keep what they need, with what all leave."""
    least = max((_LEAST_OF_FEW_DB[part.dtype] for part in parts), default=0.0)
    ratio = _ratio_db(sum(part.noise for part in parts), means, few)
    sums = [part for part in parts if operators.lookup(part.node.op).finest is not None]
    others = sorted((part for part in parts if part not in sums), key=lambda part: part.noise)
    if ratio < least:
        yield from ((part, ratio) for part in sums)
    while others and _ratio_db(sum(part.noise for part in others), means, few) < least:
        yield others.pop(), ratio


def _ratio_db(noise: float, means: np.ndarray, counts: np.ndarray) -> float:
    """Returns how far rows of these mean squares are above a noise of this power, dB."""
    share = float(counts @ np.minimum(noise / means, 1.0)) / float(counts.sum())
    return -10 * math.log10(max(share, 1e-30))


def _stream(
    node: Node, graph: Graph, forms: Forms, params: Mapping[str, QuantParams]
) -> tuple[list[_Part], list[_Part]]:
    """Returns the integer tensors that what is normalized is, or is a float sum of; and those before integer sums."""
    made = producers(graph)
    members = {n.name: n for n in (node, *company(node, graph))}
    size = max(graph.tensors[name].elements for name in members)
    near, before, seen = list[_Part](), list[_Part](), dict[str, bool]()
    for member in members.values():
        dtype, result = forms.activation(member), member.outputs[0]
        if dtype and _adds(member) and graph.tensors[result].elements == size:
            near.append(_part(member, dtype, params[result]))
        for name in member.inputs:
            if name in made and made[name].name not in members and _has_rows(graph.tensors[name], member, size):
                seen[name] = True
                if dtype and not forms.activation(made[name]) and name in params:
                    near.append(_part(member, dtype, params[name]))
    waiting = list(seen)
    while waiting:
        name = waiting.pop()
        maker, op = made[name], operators.lookup(made[name].op)
        dtype, is_near = forms.activation(maker), seen[name]
        is_same = any(is_passed(maker, source, params) for source in maker.inputs)
        if dtype and name in params and (is_near or not op.is_mover) and not is_same:
            (near if is_near else before).append(_part(maker, dtype, params[name]))
        if _adds(maker):
            further = [n for n in maker.inputs if n in made and n not in seen and graph.tensors[n].is_float]
            waiting += further
            seen |= dict.fromkeys(further, is_near and (is_same or not dtype))
    return near, before


def _adds(node: Node) -> bool:
    """True for a sum, and for what moves data: the errors of its operands are in its result as they are."""
    op = operators.lookup(node.op)
    return op.is_mover or op.finest is not None


def _part(node: Node, dtype: str, params: QuantParams) -> _Part:
    return _Part(node, dtype, params.scale[0] ** 2 / 12)


def _has_rows(tensor: Tensor, reader: Node, size: int) -> bool:
    """True for what is normalized, or for what its rows are taken from: they have the steps of the larger tensor."""
    return tensor.elements == size or (tensor.elements > size and operators.lookup(reader.op).is_mover)
