"""A float model in the units of a quantized one: equalized channels hold the same numbers divided by a factor each.

A tensor that was divided has nothing to be compared with in the original; divided likewise, the float model computes
the same function, and each of its tensors means what the quantized model's does. Factors are read from the weights.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from featherweight.analysis.places import Pair
from featherweight.graph import Model
from featherweight.repair.factors.commuting import freedom
from featherweight.repair.factors.freedom import Weight
from featherweight.repair.factors.scaling import scaled

# Weights that differ by less than this part of their power are rounded, and in no other units.
_LEAST_DIFFERENCE = 0.003
# Factors that leave more than this part of a weight's difference explain nothing.
_MOST_LEFT = 0.25


def in_units_of(before: Model, after: Model) -> Model:
    """Returns the float model with its channels divided as the quantized one's are; as it is where none are.

    Of a channel that weights w write, which read channels of known factors f, the factor is ``Σ (w f)² / Σ (w f) w'``,
    w' being the quantized model's numbers: the least squares, with rounding errors as noise.

    Args:
        before: the float model.
        after: what was made of it, perhaps with channels equalized or smoothed.
    """
    pair = Pair(before, after)
    if not any(_difference(*each) > _LEAST_DIFFERENCE for each in _weights(pair)):
        return before
    free = freedom(pair.float_graph)
    factors, is_known, explains = np.ones(free.count), ~free.is_free, False
    for weight in free.weights:
        found = _found(pair, weight.node.name, weight.position)
        original = pair.float_graph.tensors[weight.node.inputs[weight.position]].array
        if found is None or original is None or found.shape != original.shape:
            continue
        w = np.broadcast_to(np.asarray(original, np.float64), weight.shape)
        written = np.broadcast_to(np.asarray(found, np.float64), weight.shape)
        _learn(weight, w, written, factors, is_known)
        expected = w * factors[weight.reads] / factors[weight.writes]
        is_other = _difference(w, written) > _LEAST_DIFFERENCE
        explains |= is_other and _difference(expected, written) < _MOST_LEFT * _difference(w, written)
    if not explains:
        return before
    kept = [cap.node.name for cap in free.caps if f"{cap.node.name}/capped" not in pair.graph.tensors]
    return scaled(pair.before, free, factors, kept)


def _learn(weight: Weight, w: np.ndarray, written: np.ndarray, factors: np.ndarray, is_known: np.ndarray) -> None:
    """Sets the factors of the channels that a weight writes, where they are not known yet."""
    labels = np.broadcast_to(weight.writes, weight.shape).ravel()
    fed = (w * factors[weight.reads]).ravel()
    above = np.bincount(labels, fed * fed, minlength=len(factors))
    below = np.bincount(labels, fed * written.ravel(), minlength=len(factors))
    is_new = ~is_known & (above > 0) & (below > 0)
    factors[is_new] = above[is_new] / below[is_new]
    is_known |= is_new


def _weights(pair: Pair) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for place in pair.places:
        if place.kind == "weight" and place.node is not None:
            original = pair.float_graph.tensors[place.tensor].array
            found = pair.rounded_weight(place.node, place.node.inputs.index(place.tensor))
            if original is not None and found is not None:
                yield np.asarray(original, np.float64), found.astype(np.float64)


def _found(pair: Pair, name: str, position: int) -> np.ndarray | None:
    """Returns the real numbers that the quantized model has for a constant, rounded or as floats."""
    node, match = pair.made.get(name), pair.matches.get(name)
    if node is None or match is None:
        return None
    rounded = pair.rounded_weight(node, position)
    tensor = pair.graph.tensors.get(match.inputs[position])
    return rounded if rounded is not None or tensor is None or not tensor.is_float else tensor.array


def _difference(w: np.ndarray, other: np.ndarray) -> float:
    power = float(np.square(w).sum())
    return float(np.square(w - other).sum()) / power if power else 0.0
