"""Causes that lie in the model as a whole: in its outputs, in what it is fed, in the two files."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from featherweight.analysis.places import Pair, Place
from featherweight.analysis.tensor_errors import power_ratio_db
from featherweight.calibration import Stats
from featherweight.calibration.odd_samples import OddSamples
from featherweight.diagnosis.cause import Cause, columns, number
from featherweight.diagnosis.evidence import Evidence
from featherweight.diagnosis.exact import Exact
from featherweight.diagnosis.explaining import cause_at, sized
from featherweight.diagnosis.levels import Level
from featherweight.errors import DataError
from featherweight.graph import Model, Node, producers
from featherweight.operators import lookup
from featherweight.operators.call import FUSED_BOUNDS
from featherweight.runtime.litert import Session

# An output has a constant shift if less than half of its error is left without the mean of it, found on other examples.
_LEFT = 0.5
# Weights whose error is larger than this part of them are another model's.
_OTHER_WEIGHTS_DB = 3.0
# Front ends that make more than this part of the error.
_LARGE_SHARE = 0.3
# From this share of saturated values on, a first layer sees other data than it was trained on.
_MOST_SATURATED = 0.25
_LEAST_LOSS_DB = 3.0
# Outputs that move by less than this part of their largest value, over so many runs at least, are still.
_STILL, _LEAST_RUNS = 1e-3, 4
# Ranges of two halves of the data that differ by less are alike.
_UNLIKE = 1.5


def check_is_same(pair: Pair, found: Level) -> None:
    """Raises where the quantized model is another model's: its weights are none of the float model's.

    Raises:
        DataError: naming the layer whose weights differ most, and by how much.
    """
    ratios: list[tuple[float, str]] = []
    for place in pair.places:
        if place.kind == "weight" and place.node is not None and len(pair.float_graph.tensors[place.tensor].shape) > 1:
            x = np.asarray(pair.float_graph.tensors[place.tensor].array, np.float64)
            y = pair.rounded_weight(place.node, place.node.inputs.index(place.tensor))
            if y is not None and x.any():
                ratios.append((power_ratio_db(float(np.sum(x**2)), float(np.sum((x - y) ** 2))), place.tensor))
    usual = float(np.median([ratio for ratio, _ in ratios])) if ratios else math.inf
    if max(usual, found.sqnr_db) < _OTHER_WEIGHTS_DB:
        level, name = min(ratios)
        raise DataError(
            f"The quantized model is no version of the float one: its weights '{name}' are {level:.1f} dB above the "
            f"difference to the float model's, and half of all weights are below {_OTHER_WEIGHTS_DB:.0f} dB. Give the "
            "file that was made from this float model."
        )


def shift_causes(evidence: Evidence) -> list[Cause]:
    """Returns the outputs whose error is one constant for each channel, the same for all examples."""
    exact, found = evidence.exact, evidence.found
    half = len(exact.feeds) // 2
    causes: list[Cause] = []
    for output in exact.outputs:
        runs = found.get(output.tensor)
        if runs is None or not half:
            continue
        errors = [y.astype(np.float64) - x for x, y in zip(exact.values[output.tensor], runs, strict=True)]
        # The shift of each half is taken off the other one: what is left is no fit to the same examples.
        means = [columns(part).mean(axis=0).astype(np.float32) for part in (errors[:half], errors[half:])]
        kept = [y - means[i < half] for i, y in enumerate(runs)]
        shifted = [x + means[i < half] for i, x in enumerate(exact.values[output.tensor])]
        whole, without, alone = (exact.level({output.tensor: each}) for each in (runs, kept, shifted))
        if without.ratio < _LEFT * whole.ratio:
            worst = int(np.abs(means[0]).argmax())
            said = (
                f"the error of output '{output.name}' is mostly one constant for each channel, "
                f"{number(float(means[0][worst]))} in channel {worst}; without it, found on other examples, the output "
                f"is {without.sqnr_db:.1f} dB above its error"
            )
            places = evidence.places_of(output.tensor) or [Place("activation", output.tensor, None)]
            made = sized(cause_at("output-shift", said, places[:1], evidence), alone)
            causes.append(replace(made, without_db=without.level_db))
    return causes


def front_end_causes(evidence: Evidence) -> list[tuple[Cause, tuple[Place, ...]]]:
    """Returns spectral front ends, all that leads from an input to a logarithm, where they make much of the error."""
    graph, made = evidence.pair.float_graph, producers(evidence.pair.float_graph)
    own = {each.name: each for each in evidence.own}
    whole = sum(each.ratio for each in evidence.own)
    for node in graph.nodes:
        op = lookup(node.op)
        if not op.is_steep_at_zero or op.is_factor:
            continue
        names, waiting = set[str](), [node.outputs[0]]
        while waiting:
            name = waiting.pop()
            maker = made.get(name)
            if name not in names and not graph.tensors[name].is_constant:
                names.add(name if maker is None else maker.name)
                waiting += [] if maker is None else [read for read in maker.inputs if read]
        mine = [own[name] for name in names if name in own and own[name].ratio > 0]
        if sum(each.ratio for each in mine) <= _LARGE_SHARE * whole or not mine:
            continue
        level = _sum([each for one in mine for each in (one.weights, one.activations) if each is not None])
        said = (
            f"{len(names)} operators up to {evidence.said(node)} make {level.ratio / whole:.0%} of the error: a "
            "logarithm spreads what small powers are rounded to"
        )
        places = [place for each in mine for place in evidence.places_of(each.name)]
        return [(sized(cause_at("spectral-front-end", said, places, evidence), level), tuple(places))]
    return []


def _sum(levels: Sequence[Level]) -> Level:
    total = levels[0]
    for level in levels[1:]:
        total = total + level
    return total


def saturation_causes(evidence: Evidence) -> list[Cause]:
    """Returns the first layers that are saturated by these samples: data that are normalized in another way."""
    graph, exact = evidence.pair.float_graph, evidence.exact
    for node in _first_layers(graph.nodes, graph.inputs):
        share = _saturated(node, exact)
        if share <= _MOST_SATURATED:
            continue
        factor, outputs = _calmer(node, exact)
        if factor is None:
            continue
        level = exact.level(outputs)
        name = next(n for n in node.inputs if n in graph.inputs)
        low, high = min(float(x.min()) for x in exact.values[name]), max(float(x.max()) for x in exact.values[name])
        said = (
            f"{share:.0%} of what {evidence.said(node)} computes first is saturated: input '{name}' holds "
            f"{number(low)} to {number(high)}, {1 / factor:.0f} times what the layer has room for; divided by that, "
            f"the float outputs are others ({level.sqnr_db:.1f} dB)"
        )
        return [sized(cause_at("unlike-data", said, [Place("activation", name, None)], evidence), level)]
    return []


def _first_layers(nodes: Sequence[Node], inputs: Sequence[str]) -> list[Node]:
    return [
        node for node in nodes if lookup(node.op).weight is not None and any(name in inputs for name in node.inputs)
    ]


def _bounds(node: Node) -> tuple[float | None, float | None]:
    return FUSED_BOUNDS.get(str(node.attrs.get("fused_activation_function", "NONE")), (None, None))


def _saturated(node: Node, exact: Exact) -> float:
    """Returns the share of values at the upper end of a fused activation."""
    high = _bounds(node)[1]
    return 0.0 if high is None else float(np.mean([np.mean(x >= high) for x in exact.values[node.outputs[0]]]))


def _calmer(node: Node, exact: Exact) -> tuple[float | None, dict[str, list[np.ndarray]]]:
    """Returns the largest factor (a power of two) of inputs at which a layer is not saturated, and the outputs then."""
    high = _bounds(node)[1]
    inputs = [name for name in node.inputs if name in exact.model.main.inputs]
    tensors = [output.tensor for output in exact.outputs]
    with Session(exact.model, outputs=list(dict.fromkeys([node.outputs[0], *tensors]))) as session:
        public = {tensor.name: name for name, tensor in session.inputs.items()}
        for factor in 0.5 ** np.arange(1, 13):
            found: dict[str, list[np.ndarray]] = {name: [] for name in tensors}
            saturated = []
            for feed in exact.feeds:
                session.invoke({**feed, **{public[n]: feed[public[n]] * np.float32(factor) for n in inputs}})
                saturated.append(np.mean(session.read(node.outputs[0]) >= high))
                for name in tensors:
                    found[name].append(session.read(name))
            if np.mean(saturated) < 0.05:
                return float(factor), found
    return None, {}


def odd_causes(evidence: Evidence, odd: Sequence[OddSamples], now: Level, without: Level) -> list[Cause]:
    """Returns whether a few samples make a range, where that costs the others.

    Args:
        evidence: what was measured.
        odd: these samples.
        now: the error of the model on all others.
        without: the same where ranges are made for these others alone.
    """
    if not odd or now.level_db > without.level_db - _LEAST_LOSS_DB:
        return []
    said = f"{odd[0]}; with ranges without it the others are {without.sqnr_db:.1f} dB above their error"
    places = [Place("activation", tensor, None) for tensor in evidence.exact.model.main.inputs[:1]]
    cause = sized(cause_at("odd-samples", said, places, evidence), now)
    return [replace(cause, layers=(odd[0].name,), without_db=without.level_db)]


def notes_on_outputs(exact: Exact) -> list[str]:
    """Returns a note on float outputs that hardly differ from sample to sample, as those of wrong data do."""
    notes: list[str] = []
    for output in exact.outputs:
        runs = [x.astype(np.float64) for x in exact.values[output.tensor]]
        shapes = {x.shape for x in runs}
        if len(runs) < _LEAST_RUNS or len(shapes) > 1 or not all(np.isfinite(x).all() for x in runs):
            continue
        largest, moved = (max(float(np.abs(x - y).max(initial=0.0)) for x in runs) for y in (0.0, runs[0]))
        if moved <= _STILL * largest:
            notes.append(
                f"The float model's output '{output.name}' is all but the same for {len(runs)} samples: no value moves "
                f"by more than {number(moved)}, the largest is {number(largest)}. Data that are normalized in another "
                "way than in training do that, and dead layers; what is measured there says little."
            )
    return notes


def coverage_causes(
    evidence: Evidence,
    halves: Sequence[Sequence[object]],
    stats: Sequence[Stats],
    quantized: Callable[[Stats], Model],
    level: Callable[[Model, Sequence[object]], Level],
) -> list[Cause]:
    """Returns whether one half of the calibration data leaves out ranges that the other half has, and what that costs.

    Args:
        evidence: what was measured.
        halves: the samples, in two.
        stats: what calibration measured on each.
        quantized: makes the model from a half's statistics.
        level: the error of such a model on other samples.
    """
    spans = [{name: each.high - each.low for name, each in half.tensors.items()} for half in stats]
    both = {name: (spans[0][name], spans[1][name]) for name in spans[0] if name in spans[1]}
    unlike = {name: max(pair) / max(min(pair), 1e-30) for name, pair in both.items() if max(pair) > 0}
    if max(unlike.values(), default=0.0) < _UNLIKE:
        return []
    found = [level(quantized(stats[index]), halves[1 - index]) for index in (0, 1)]
    worst = max((0, 1), key=lambda index: found[index].ratio)
    if evidence.total.level_db - found[worst].level_db < _LEAST_LOSS_DB:
        return []
    name = max(unlike, key=lambda each: unlike[each])
    spans_said = [f"{number(half.tensors[name].low)} to {number(half.tensors[name].high)}" for half in stats]
    place = Place("activation", name, producers(evidence.pair.float_graph).get(name))
    said = (
        f"half of the samples does not cover the ranges of the others: calibrated on the {('first', 'second')[worst]} "
        f"half alone, the others are {found[worst].sqnr_db:.1f} dB above their error; '{evidence.layer(place)}' spans "
        f"{spans_said[0]} in the first half, {spans_said[1]} in the second"
    )
    cause = sized(cause_at("unseen-ranges", said, [place], evidence), found[worst])
    return [replace(cause, without_db=evidence.total.level_db)]
