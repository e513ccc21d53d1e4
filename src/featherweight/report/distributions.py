"""Histograms of a quantized model's tensors beside the ranges that its integers hold."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from featherweight.analysis.inspection import op_name
from featherweight.calibration import Stats
from featherweight.calibration.stats import TensorStats
from featherweight.graph import Graph, producers
from featherweight.graph.numerics import INTEGER_BITS, QuantParams, integer_range
from featherweight.operators.layers import shown_names
from featherweight.operators.relevance import EVERYTHING, Interval
from featherweight.pages import Distribution
from featherweight.ptq.relevance import within

_BINS = 40


def held_range(params: QuantParams | None) -> tuple[float, float] | None:
    """Returns the smallest and largest number that integers of these parameters hold; None for floats and blocks.

    >>> held_range(QuantParams("int8", (0.5,), (-128,)))
    (0.0, 127.5)
    """
    if params is None or params.dtype not in INTEGER_BITS or not params.scale:
        return None
    qmin, qmax = integer_range(params.dtype)
    pairs = list(zip(params.scale, params.zero_point, strict=True))
    return min(s * (qmin - z) for s, z in pairs), max(s * (qmax - z) for s, z in pairs)


def distributions(
    graph: Graph, stats: Stats, params: Mapping[str, QuantParams], intervals: Mapping[str, Interval] | None = None
) -> tuple[Distribution, ...]:
    """Returns the histograms of all tensors that become integers, what is clipped most first, in network order else.

    Args:
        graph: the float graph that the statistics are about.
        stats: with histograms; tensors without are left out.
        params: tensor → parameters of its integers, as in a plan.
        intervals: tensor → the values that matter behind it (`ptq.relevance`): others are counted, and not drawn.
    """
    matters = intervals or {}
    written, names = producers(graph), shown_names(graph)
    order = {name: index for index, name in enumerate([*graph.inputs, *written])}
    found: list[Distribution] = []
    for name, seen in sorted(stats.tensors.items(), key=lambda item: order.get(item[0], len(order))):
        held = held_range(params.get(name))
        if held is not None and seen.count and seen.histogram is not None and name in graph.tensors:
            node = written.get(name)
            what = "input" if node is None else op_name(node)
            found.append(
                _distribution(
                    names.get(name, name), what, seen, held, max(params[name].scale), matters.get(name, EVERYTHING)
                )
            )
    return tuple(sorted(found, key=lambda row: -row.clipped))


def _distribution(
    name: str, what: str, seen: TensorStats, held: tuple[float, float], step: float, interval: Interval
) -> Distribution:
    assert seen.histogram is not None
    low, high = within((seen.low, seen.high), interval)
    left, right, counts = seen.histogram.pieces(seen.low, seen.high)
    total = counts.sum() + seen.histogram.zeros
    matters = (right >= low) & (left <= high)
    beyond = float(counts[~matters].sum() / total) if total else 0.0
    left, right, counts = left[matters], right[matters], counts[matters]
    left, right = np.maximum(left, low), np.minimum(right, high)
    spread = np.where(right > left, right - left, 1.0)
    # A value within half a step of the range is no further off than rounding makes it.
    inside = np.minimum(right, held[1] + step / 2) - np.maximum(left, held[0] - step / 2)
    is_point = right <= left
    is_held = (left >= held[0] - step / 2) & (right <= held[1] + step / 2)
    kept = np.where(is_point | is_held, is_held, np.clip(inside / spread, 0.0, 1.0))
    clipped = float((counts * (1.0 - kept)).sum() / total) if total else 0.0
    width = (high - low) / _BINS
    binned = np.histogram((left + right) / 2, _BINS, (low, high), weights=counts)[0] if width > 0 else counts.sum()
    zeros = seen.histogram.zeros / total if total else 0.0
    detail = "; ".join(
        part
        for part in (
            what,
            f"{100 * zeros:.0f} % zeros, not drawn" if zeros >= 0.005 else "",
            f"{_percent(clipped)} clipped" if clipped else "",
            f"{_percent(beyond)} beyond what matters behind (masks), not drawn" if beyond else "",
        )
        if part
    )
    drawn = tuple(round(float(count)) for count in np.atleast_1d(binned))
    return Distribution(name, low, high, *held, start=low, width=width, counts=drawn, clipped=clipped, detail=detail)


def _percent(fraction: float) -> str:
    """Returns a fraction in per cent, two digits; small ones, and ones near all, are not rounded away.

    >>> _percent(1.0), _percent(0.047), _percent(0.00012)
    ('100 %', '4.7 %', '0.012 %')
    """
    return f"{100 * fraction:.0f} %" if fraction >= 0.1 else f"{100 * fraction:.2g} %"
