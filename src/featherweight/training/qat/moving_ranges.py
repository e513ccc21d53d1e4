"""Ranges of activations that move by a rule while a model is trained: with the batches, or narrower by a schedule.

A group of tensors shares one range. Its scale and zero point are variables that the training step and the file share
bit for bit, so it does not matter how exactly they are computed from the range.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import keras
import numpy as np

from featherweight.graph import Graph, Tensor
from featherweight.graph.numerics import integer_range
from featherweight.operators import lookup
from featherweight.operators.call import Array
from featherweight.training.devices import extremes_of_all
from featherweight.training.graph.registry import ops
from featherweight.training.integer.straight_through import power_of_two_above
from featherweight.training.qat.settings import RangeTraining

# How far a scale can go from where it started, so that runtimes go on taking its node.
_SMALLEST, _LARGEST = 1 / 64, 64.0


@dataclass(frozen=True, eq=False)
class MovingRanges:
    """The ranges of one model's activations; arrays and variables have one element for each group.

    Attributes:
        groups: integer tensor → its group.
        sources: integer tensor → float tensor that it stands for, where there is one to observe.
        planned: scales as calibrated.
        qmin, qmax: least and largest integer.
        low, high: the ranges, before narrowing.
        scale, zero_point: of the moment.
        options: how ranges move.
        is_power_of_two: scales must be powers of two.
    """

    groups: Mapping[str, int]
    sources: Mapping[str, str]
    planned: np.ndarray
    qmin: np.ndarray
    qmax: np.ndarray
    low: keras.Variable
    high: keras.Variable
    scale: keras.Variable
    zero_point: keras.Variable
    options: RangeTraining
    is_power_of_two: bool

    def affine(self, name: str) -> tuple[Array, Array]:
        """Returns the (scale, zero point) of a tensor."""
        group = self.groups[name]
        return ops.convert_to_tensor(self.scale)[group], ops.convert_to_tensor(self.zero_point)[group]

    def update(self, step: Array, observed: Callable[[tuple[str, ...]], Mapping[str, Array]]) -> None:
        """Moves the ranges by one training step.

        Args:
            step: how many steps were done before.
            observed: returns float tensors of this batch by name.
        """
        low, high = ops.convert_to_tensor(self.low), ops.convert_to_tensor(self.high)
        if self.options.observes:
            least, largest = extremes_of_all(*self._extremes(observed, low, high))
            if self.options.method == "minmax":
                moved = ops.minimum(low, least), ops.maximum(high, largest)
            else:
                kept = self.options.momentum
                moved = kept * low + (1 - kept) * least, kept * high + (1 - kept) * largest
            if self.options.freeze_after is not None:
                is_moving = step < self.options.freeze_after
                moved = ops.where(is_moving, moved[0], low), ops.where(is_moving, moved[1], high)
            low, high = moved
            self.low.assign(low)
            self.high.assign(high)
        scale, zero_point = self._parameters(step, low, high)
        self.scale.assign(scale)
        self.zero_point.assign(zero_point)

    def _extremes(
        self, observed: Callable[[tuple[str, ...]], Mapping[str, Array]], low: Array, high: Array
    ) -> tuple[Array, Array]:
        """Returns the extremes of a batch by group; the range itself where nothing of a group can be observed."""
        values = observed(tuple(sorted(set(self.sources.values()))))
        found: dict[int, list[tuple[Array, Array]]] = {}
        for name, source in self.sources.items():
            value = ops.stop_gradient(values[source])
            found.setdefault(self.groups[name], []).append((ops.min(value), ops.max(value)))
        pairs = [found.get(group, [(low[group], high[group])]) for group in range(len(self.planned))]
        least = [ops.min(ops.stack([a for a, _ in pair])) for pair in pairs]
        largest = [ops.max(ops.stack([b for _, b in pair])) for pair in pairs]
        return ops.stack(least), ops.stack(largest)

    def _parameters(self, step: Array, low: Array, high: Array) -> tuple[Array, Array]:
        """Returns (scales, zero points) as `numerics.params_from_range` chooses them, inside their bounds."""
        share = 1.0 if self.options.narrowing is None else 1.0 - self.options.narrowing(step)
        low, high = ops.minimum(low, 0.0) * share, ops.maximum(high, 0.0) * share
        qmin, qmax, planned = (ops.convert_to_tensor(part) for part in (self.qmin, self.qmax, self.planned))
        is_symmetric = ops.equal(qmin, -qmax)
        width = ops.where(is_symmetric, 2 * ops.maximum(-low, high), high - low)
        scale = ops.clip(width / (qmax - qmin), planned * _SMALLEST, planned * _LARGEST)
        if self.is_power_of_two:
            scale = power_of_two_above(scale)
        zero_point = ops.clip(ops.round(qmin - low / scale), qmin, qmax)
        return scale, ops.where(is_symmetric, 0.0, zero_point)


def made_ranges(
    integer: Graph,
    graph: Graph,
    groups: Mapping[str, int],
    options: RangeTraining,
    make: Callable[[str, np.ndarray, bool], keras.Variable],
    *,
    is_power_of_two: bool,
    is_symmetric: bool = False,
) -> MovingRanges:
    """Makes the variables.

    Args:
        integer: the graph with the planned parameters.
        graph: the float graph.
        groups: integer tensor → group.
        options: how ranges move.
        make: makes a variable from (name, value, trainable).
        is_power_of_two: scales must be powers of two.
        is_symmetric: zero points must be 0.
    """
    first: dict[int, Tensor] = {}
    for name, group in groups.items():
        first.setdefault(group, integer.tensors[name])
    quants = [(tensor.quant, tensor.dtype) for _, tensor in sorted(first.items())]
    planned = np.array([quant.scale[0] for quant, _ in quants if quant], np.float32)
    zero_points = np.array([quant.zero_point[0] if quant.zero_point else 0 for quant, _ in quants if quant], np.float32)
    # int16 is symmetric: its range has no -32768.
    limits = [integer_range(dtype, narrow=is_symmetric or dtype == "int16") for _, dtype in quants]
    qmin, qmax = (np.array(ends, np.float32) for ends in zip(*limits, strict=True))
    return MovingRanges(
        groups,
        {name: source for name in groups if (source := float_source(integer, graph, name)) is not None},
        planned,
        qmin,
        qmax,
        make("range_low", planned * (qmin - zero_points), False),
        make("range_high", planned * (qmax - zero_points), False),
        make("range_scale", planned, False),
        make("range_zero_point", zero_points, False),
        options,
        is_power_of_two,
    )


def float_source(integer: Graph, graph: Graph, name: str) -> str | None:
    """Returns the float tensor behind a tensor of the integer graph, through conversions; None for constants."""
    made_by = {node.outputs[0]: node.inputs[0] for node in integer.nodes if lookup(node.op).is_conversion}
    while name not in graph.tensors and name in made_by:
        name = made_by[name]
    tensor = graph.tensors.get(name)
    return name if tensor is not None and tensor.is_float and not tensor.is_constant else None
