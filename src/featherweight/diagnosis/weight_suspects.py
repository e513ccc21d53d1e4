"""Causes of the error that an operator has from its weights in integers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from featherweight.analysis.places import Place
from featherweight.analysis.tensor_errors import power_ratio_db
from featherweight.diagnosis.cause import Suspect, columns, indices, number, without_mean
from featherweight.diagnosis.evidence import Evidence
from featherweight.diagnosis.exact import Runs
from featherweight.graph import Node, constant
from featherweight.graph.numerics import INTEGER_BITS
from featherweight.operators import lookup

# A channel whose largest weight is fewer steps than this has next to nothing left.
_FEW_STEPS = 4
# Rounding, also against the layer's output, moves few weights by more steps than this, and hardly the whole of them.
_ROUNDED_STEPS, _MOST_MOVED, _OTHERS_DB = 2.0, 0.25, 3.0
# From weights to what the operator computes with them.
Computed = Callable[[np.ndarray], Mapping[str, Runs]]
_CLIPS = np.linspace(1.0, 0.3, 15)


def weight_suspects(
    node: Node, places: tuple[Place, ...], changed: Mapping[str, Runs], evidence: Evidence
) -> Iterator[Suspect]:
    """Yields the causes that the rounding of an operator's weights may have, likelier ones first.

    Args:
        node: the operator.
        places: its weights.
        changed: what it computes with all of them rounded.
        evidence: what was measured.
    """
    op = lookup(node.op)
    role = next((role for role in op.weights if any(p.tensor == op.input_of(node, role.weight) for p in places)), None)
    place = places[0] if role is None else next(p for p in places if p.tensor == node.inputs[role.weight])
    array = evidence.pair.float_graph.tensors[place.tensor].array
    if array is None or place.params is None or place.params.dtype not in INTEGER_BITS:
        return
    w, bits, axis = array.astype(np.float64), INTEGER_BITS[place.params.dtype], op.axis
    said, step = evidence.said(node), _steps(place, w)
    yield from _others(
        evidence.pair.rounded_weight(node, node.inputs.index(place.tensor)), w, step, said, changed, evidence
    )

    def computed(values: np.ndarray) -> Mapping[str, Runs]:
        tensor = replace(constant(place.tensor, values.astype(np.float32)), quant=None)
        given = {place.tensor: tensor}
        for other in places:
            position = node.inputs.index(other.tensor)
            rounded = evidence.pair.rounded_weight(node, position) if other is not place else None
            if rounded is not None:
                given[other.tensor] = replace(constant(other.tensor, rounded), quant=None)
        return evidence.exact.computed_alone(node, given)

    if bits == 4:
        is_depthwise = op.weight_kind == "depthwise"
        name, what = ("int4-depthwise", "depthwise kernel") if is_depthwise else ("int4-weights", "kernel")
        text = f"the {what} of {said} has 4 bits: {_steps_said(w, step)}"
        yield Suspect(name, text, computed(_per(w, axis, 8)), surpasses=is_depthwise)
    if axis is not None and w.ndim > 1 and not place.params.is_per_channel and place.params.block_size is None:
        yield _channels(w, axis, bits, said, step, computed)
    if op.weight_kind in ("conv", "dense") and w.ndim > 1:
        yield from _columns(w, axis or 0, bits, said, computed)
    clipped = _clipped(w, axis if place.params.is_per_channel else None, bits)
    text = f"a few weights of {said} reach {_outlying(w, axis)} times what most of their channel reach"
    yield Suspect("weight-outliers", text, computed(clipped))
    mean, worst = _shift(changed, evidence)
    text = f"rounding the weights of {said} moves the mean of its channels, of channel {worst} by {number(mean)}"
    yield Suspect("constant-shift", text, without_mean(changed, evidence.exact.values))
    yield Suspect("weight-rounding", f"the weights of {said} are held in {bits} bits: {_steps_said(w, step)}")


def _others(
    found: np.ndarray | None,
    w: np.ndarray,
    step: np.ndarray,
    said: str,
    changed: Mapping[str, Runs],
    evidence: Evidence,
) -> Iterator[Suspect]:
    """Weights that no rounding makes of the float model's: of another layer, or of another state of training."""
    if found is None or np.mean(np.abs(found - w) > _ROUNDED_STEPS * step) < _MOST_MOVED:
        return
    ratio = power_ratio_db(float(np.square(w).sum()), float(np.square(found - w).sum()))
    if ratio < _OTHERS_DB:
        text = (
            f"the weights of {said} are not those of the float model, rounded: they are {ratio:.1f} dB above the "
            "difference to them"
        )
        yield Suspect("other-weights", text, {name: evidence.exact.values[name] for name in changed}, surpasses=True)


def _shift(changed: Mapping[str, Runs], evidence: Evidence) -> tuple[float, int]:
    """Returns the largest shift of the mean of a channel, and which it is."""
    found = (0.0, 0)
    for name, runs in changed.items():
        errors = columns([y - x for x, y in zip(evidence.exact.values[name], runs, strict=True)]).mean(axis=0)
        found = max(found, (float(np.abs(errors).max()), int(np.abs(errors).argmax())))
    return found


def _steps(place: Place, w: np.ndarray) -> np.ndarray:
    """Returns the step of each weight, broadcast; of blocks, that of the largest."""
    params = place.params
    if params is None or not params.scale:
        return np.abs(w).max(keepdims=True) / 7
    shape = [-1 if d == params.axis else 1 for d in range(w.ndim)] if len(params.scale) > 1 else [1] * w.ndim
    return np.asarray(params.scale, np.float64).reshape(shape)


def _steps_said(w: np.ndarray, step: np.ndarray) -> str:
    usual = float(np.median(np.abs(w / step)))
    return f"half of them are smaller than {usual:.1f} steps"


def _rest(w: np.ndarray, axis: int | None) -> tuple[int, ...]:
    return tuple(d for d in range(w.ndim) if d != axis)


def _rounded(w: np.ndarray, largest: np.ndarray, bits: int) -> np.ndarray:
    most = (1 << (bits - 1)) - 1
    step = np.where(largest > 0, largest / most, 1.0)
    return np.clip(np.round(w / step), -most, most) * step


def _per(w: np.ndarray, axis: int | None, bits: int) -> np.ndarray:
    """Returns weights rounded to bits, with a scale per index of an axis."""
    return _rounded(w, np.abs(w).max(axis=_rest(w, axis), keepdims=True), bits)


def _channels(w: np.ndarray, axis: int, bits: int, said: str, step: np.ndarray, computed: Computed) -> Suspect:
    """Channels under one scale: without it, each would have its own."""
    largest = np.abs(w).max(axis=_rest(w, axis))
    alive = largest[largest > 0]
    few = np.flatnonzero((largest < _FEW_STEPS * float(step.max())) & (largest > 0))
    which = f" ({indices(few)})" if few.size else ""
    text = (
        f"one scale holds all weights of {said}, whose channels reach from {number(float(alive.min()))} to "
        f"{number(float(alive.max()))}: {len(few)} of {largest.size} have fewer than {_FEW_STEPS} steps{which}"
    )
    return Suspect("unlike-channels", text, computed(_per(w, axis, bits)), aspect="weights")


def _columns(w: np.ndarray, axis: int, bits: int, said: str, computed: Computed) -> Iterator[Suspect]:
    """Channels that are read with weights of unlike size: without it, each would be scaled to the same."""
    last = w.ndim - 1
    largest = np.abs(w).max(axis=_rest(w, last), keepdims=True)
    alive = largest[largest > 0]
    if axis == last or alive.size < 2 or alive.max() < _FEW_STEPS * alive.min():
        return
    factor = np.where(largest > 0, largest, 1.0)
    span = f"{number(float(alive.min()))} to {number(float(alive.max()))}"
    text = f"the weights of {said} for the channels that it reads differ in size: {span} under one scale"
    yield Suspect("unlike-channels", text, computed(_per(w / factor, axis, bits) * factor), aspect="columns")


def _clipped(w: np.ndarray, axis: int | None, bits: int) -> np.ndarray:
    """Returns weights rounded with the clip of each channel that makes the smallest error."""
    largest = np.abs(w).max(axis=_rest(w, axis), keepdims=True)
    best, least = w, np.full(largest.shape, np.inf)
    for clip in _CLIPS:
        tried = _rounded(w, largest * clip, bits)
        error = np.square(tried - w).sum(axis=_rest(w, axis), keepdims=True)
        best, least = np.where(error < least, tried, best), np.minimum(error, least)
    return best


def _outlying(w: np.ndarray, axis: int | None) -> str:
    sizes = np.abs(w)
    usual = np.percentile(sizes, 90, axis=_rest(w, axis))
    return number(float(np.max(sizes.max(axis=_rest(w, axis)) / np.maximum(usual, 1e-30))))
