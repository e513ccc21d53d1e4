"""Causes of the error that a computed or fed tensor has from being held in integers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from featherweight.analysis.places import Place
from featherweight.diagnosis.cause import Suspect, columns, extremes, indices, number, on_grid, without_mean
from featherweight.diagnosis.evidence import Evidence
from featherweight.diagnosis.exact import Runs
from featherweight.diagnosis.rounding import rounded
from featherweight.graph import Graph, Node, consumers
from featherweight.graph.numerics import INTEGER_BITS, QuantParams, integer_range
from featherweight.operators import lookup
from featherweight.operators.call import FUSED_BOUNDS

# Ranges that differ by less are alike: two of eight bits.
_UNLIKE = 4.0
# From this share on, an input holds other data than the model was calibrated on.
_MOST_CLIPPED = 0.05
# The share of a tensor's values that may be called outliers.
_OUTLIERS = 0.005
# A step of scores that changes a probability by more than a tenth.
_LARGEST_SCORE_STEP = 0.1


def activation_suspects(place: Place, evidence: Evidence) -> Iterator[Suspect]:
    """Yields the causes that the rounding of one tensor may have, likelier ones first."""
    params = place.params
    if params is None or len(params.scale) != 1:
        return
    yield from _standing_alone(place, evidence)
    runs = evidence.exact.values[place.tensor]
    found = rounded(runs, params)
    bounds = _bounds(params)
    yield from _clipped(place, evidence, bounds)
    yield from _unlike_ranges(place, evidence, bounds)
    yield from _outliers(place, evidence, bounds)
    if place.node is not None and lookup(place.node.op).bias is not None:
        mean = without_mean({place.tensor: found}, evidence.exact.values)
        shift = float(np.abs(columns([y - x for x, y in zip(runs, found, strict=True)]).mean(axis=0)).max())
        said = f"rounding moves the mean of {_name(place, evidence)} by up to {number(shift)}"
        yield Suspect("constant-shift", said, mean)
    yield from _role(place, evidence, params)


def _name(place: Place, evidence: Evidence) -> str:
    return f"input '{place.tensor}'" if place.node is None else f"the output of {evidence.said(place.node)}"


def _bounds(params: QuantParams) -> tuple[float, float]:
    """Returns the smallest and the largest real number that integers stand for."""
    qmin, qmax = integer_range(params.dtype)
    return params.scale[0] * (qmin - params.zero_point[0]), params.scale[0] * (qmax - params.zero_point[0])


def _levels(params: QuantParams) -> int:
    return (1 << INTEGER_BITS[params.dtype]) - 1


def _standing_alone(place: Place, evidence: Evidence) -> Iterator[Suspect]:
    """An activation that stands alone reads what a product is rounded to, most of which it cuts off."""
    graph = evidence.pair.float_graph
    readers = consumers(graph).get(place.tensor, ())
    node = place.node
    if node is None or lookup(node.op).weight is None or len(readers) != 1 or place.tensor in graph.outputs:
        return
    is_free = node.attrs.get("fused_activation_function", "NONE") == "NONE"
    if is_free and readers[0].op in FUSED_BOUNDS:
        bounds = FUSED_BOUNDS[readers[0].op]
        low, high = -np.inf if bounds[0] is None else bounds[0], np.inf if bounds[1] is None else bounds[1]
        cut = np.mean([np.mean((x < low) | (x > high)) for x in evidence.exact.values[place.tensor]])
        said = (
            f"{readers[0].op} stands alone behind {evidence.said(node)}, which is rounded with {cut:.0%} of values "
            "that it cuts off"
        )
        behind, params = readers[0].outputs[0], evidence.pair.held(readers[0].outputs[0])
        runs = evidence.exact.values[behind]
        # Fused, the operator computes what the activation's output holds, which an activation leaves as it is.
        fused = {place.tensor: runs if params is None else rounded(runs, params)}
        yield Suspect("stands-alone", said, fused, surpasses=True)


def _clipped(place: Place, evidence: Evidence, bounds: tuple[float, float]) -> Iterator[Suspect]:
    runs, params = evidence.exact.values[place.tensor], place.params
    half = params.scale[0] / 2 if params else 0.0
    outside = [(x < bounds[0] - half) | (x > bounds[1] + half) for x in runs]
    share = float(np.mean([each.mean() for each in outside]))
    if not share or params is None:
        return
    low, high = extremes(runs)
    kept = [np.where(out, x, y) for x, y, out in zip(runs, rounded(runs, params), outside, strict=True)]
    said = (
        f"{_percent(share)} of the values of {_name(place, evidence)} are clipped: its integers hold "
        f"{number(bounds[0])} to {number(bounds[1])}, these samples reach {number(low)} to {number(high)}"
    )
    is_foreign = place.node is None and share > _MOST_CLIPPED and not evidence.is_calibrated
    yield Suspect("unlike-data" if is_foreign else "clipped-range", said, {place.tensor: kept})


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"


def _unlike_ranges(place: Place, evidence: Evidence, bounds: tuple[float, float]) -> Iterator[Suspect]:
    """One scale for values of unlike range: for other tensors that share it, or for the tensor's own channels."""
    runs, params = evidence.exact.values[place.tensor], place.params
    if params is None:
        return
    low, high = extremes(runs)
    width, own = bounds[1] - bounds[0], max(high, 0.0) - min(low, 0.0)
    if own > 0 and width > _UNLIKE * own:
        kept = {place.tensor: [on_grid(x, low, high, _levels(params)) for x in runs]}
        said = (
            f"{_name(place, evidence)} spans {number(low)} to {number(high)}, but its scale is made for "
            f"{number(bounds[0])} to {number(bounds[1])}: {own / params.scale[0]:.0f} steps are left for it"
        )
        sharer = _sharing(place, evidence)
        because = "" if sharer is None else f", because {evidence.said(sharer)} puts it under one scale with others"
        yield Suspect("dead-range" if sharer is None else "unlike-ranges", said + because, kept)
    rows = columns(runs)
    lows, highs = np.minimum(rows.min(axis=0), 0.0), np.maximum(rows.max(axis=0), 0.0)
    widths = highs - lows
    small = np.flatnonzero((widths > 0) & (widths * _UNLIKE < widths.max()))
    if small.size:
        kept = {place.tensor: [on_grid(x, lows, highs, _levels(params)) for x in runs]}
        said = (
            f"one scale holds all channels of {_name(place, evidence)}: channels {indices(small)} (of {widths.size}) "
            f"span {number(float(widths[small].max()))} at most, others up to {number(float(widths.max()))}"
        )
        is_output = is_shown(place.tensor, evidence)
        readers = consumers(evidence.pair.float_graph).get(place.tensor, ())
        if not is_output and all(lookup(node.op).weight is None for node in readers):
            return  # no weights beside which channels could be given like ranges
        # Scales of their own make the error of any channels smaller, of alike ones too, if not by this much.
        yield Suspect("unlike-ranges" if is_output else "unlike-channels", said, kept, most=0.25)


def is_shown(tensor: str, evidence: Evidence) -> bool:
    """True for an output, and for what is only moved into outputs."""
    graph, read = evidence.pair.float_graph, consumers(evidence.pair.float_graph)
    waiting = [tensor]
    for name in waiting:
        readers = read.get(name, ())
        is_moved = all(lookup(node.op).moves_data or lookup(node.op).is_mover for node in readers)
        if not is_moved or not (readers or name in graph.outputs):
            return False
        waiting += [output for node in readers for output in node.outputs if output not in waiting]
    return True


def _sharing(place: Place, evidence: Evidence) -> Node | None:
    """Returns an operator that holds the tensor and others, or its output, under one scale."""
    graph = evidence.pair.float_graph
    around = (*consumers(graph).get(place.tensor, ()), *((place.node,) if place.node is not None else ()))
    values = evidence.exact.values
    width = _width(values[place.tensor])
    for node in around:
        others = [name for name in (*node.inputs, *node.outputs) if name in values and name != place.tensor]
        shared = [name for name in others if evidence.pair.held(name) == place.params]
        if any(_width(values[name]) > 2 * width for name in shared):
            return node
    return None


def _width(runs: Runs) -> float:
    low, high = extremes(runs)
    return high - low


def _outliers(place: Place, evidence: Evidence, bounds: tuple[float, float]) -> Iterator[Suspect]:
    runs, params = evidence.exact.values[place.tensor], place.params
    sizes = np.concatenate([np.abs(np.nan_to_num(x)).reshape(-1) for x in runs])
    count = max(1, int(_OUTLIERS * sizes.size))
    if params is None or sizes.size < 64 or sizes.size <= count:
        return
    limit = float(np.partition(sizes, -count - 1)[-count - 1])
    if limit <= 0 or sizes.max() < 2 * limit:
        return
    rest = [np.clip(x, -limit, limit) for x in runs]
    low, high = extremes(rest)
    kept = [np.where(np.abs(x) > limit, x, on_grid(x, low, high, _levels(params))) for x in runs]
    said = (
        f"{_percent(count / sizes.size)} of the values of {_name(place, evidence)} reach {number(float(sizes.max()))}, "
        f"all others stay below {number(limit)}: its steps are {number(params.scale[0])} wide"
    )
    yield Suspect("outliers", said, {place.tensor: kept})


def _role(place: Place, evidence: Evidence, params: QuantParams) -> Iterator[Suspect]:
    """What the tensor is for, where its error costs much because of that."""
    graph, runs = evidence.pair.float_graph, evidence.exact.values[place.tensor]
    low, high = extremes(runs)
    step = params.scale[0]
    span = f"from {number(low)} to {number(high)} in steps of {number(step)}"
    for node in _readers(place.tensor, graph):
        op = lookup(node.op)
        if op.normalizes_rows and step > _LARGEST_SCORE_STEP:
            changes = f"one step changes a probability by {np.expm1(step):.0%}"
            yield Suspect("softmax-input", f"{evidence.said(node)} reads scores {span}: {changes}")
        if op.is_steep_at_zero or op.is_factor or place.tensor == op.input_of(node, op.divisor):
            alive = np.concatenate([np.abs(x[np.isfinite(x) & (x != 0)]).reshape(-1) for x in runs])
            least = float(np.percentile(alive, 5)) if alive.size else 0.0
            small = (
                f"depends on small values: 5 % of what it reads are below {number(least)}, in steps of {number(step)}"
            )
            yield Suspect("normalization-input", f"{evidence.said(node)} {small}", surpasses=least < 2 * step)
    node = place.node
    if node is not None and (lookup(node.op).is_factor or lookup(node.op).is_steep_at_zero):
        said = f"{evidence.said(node)} computes factors {span}: the error of each counts relative to itself"
        yield Suspect("normalization-input", said)
    if _is_of_stream(place, evidence):
        said = f"{_name(place, evidence)} is part of a sum that later blocks add to, {span}"
        yield Suspect("residual-stream", said)
    yield Suspect("activation-rounding", f"{_name(place, evidence)} is held {span}")


def _readers(name: str, graph: Graph) -> Iterator[Node]:
    """Yields the operators that read a tensor, and those behind sums with constants, and means."""
    for node in consumers(graph).get(name, ()):
        yield node
        others = [other for other in node.inputs if other and other != name]
        op, is_alone = lookup(node.op), all(graph.tensors[other].is_constant for other in others)
        if is_alone and (op.elementwise == 2 or op.is_reduction):
            yield from _readers(node.outputs[0], graph)


def _is_of_stream(place: Place, evidence: Evidence) -> bool:
    """True for sums that several operators read, and for what is added to one."""
    graph = evidence.pair.float_graph
    read = consumers(graph)

    def is_sum(node: Node) -> bool:
        computed = [name for name in node.inputs if name and not graph.tensors[name].is_constant]
        return node.op == "ADD" and len(computed) == 2 and len(read.get(node.outputs[0], ())) > 1

    return any(map(is_sum, (*((place.node,) if place.node is not None else ()), *read.get(place.tensor, ()))))
