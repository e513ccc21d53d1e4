"""Scales of tensors that one operator brings together: neither so far apart that nothing is left of one of them.

A tensor of zeros alone has no scale of its own, and takes that of what it stands beside. Where operands cancel, the
result can't be finer than their rounding. A constant that is nothing beside the others need not be fine itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from featherweight import operators
from featherweight.graph import Graph, Node, consumers
from featherweight.graph.numerics import QuantParams, integer_range
from featherweight.operators.call import FUSED_BOUNDS, fused_activation
from featherweight.operators.families.elementwise import SUB
from featherweight.targets.target import Target

# Of the output's scale: below, 8 bits of an operand are less than a step of it (and XNNPACK leaves the operator).
_FINEST_OPERAND = 2.0**-9
# Of a tensor of zeros alone (`numerics.params_from_range`).
_BLANK_SCALE = 1.0
_LARGEST_SCALE = 2.0**127
_ROUNDS = 4
# What a step may be longer by to be the same for all purposes: less than a tenth of a bit.
_HARDLY_COARSER = 1.05
# Half of what int32 holds: as far as the bounds of activations may be away, in steps.
MOST_STEPS = 2.0**30


class Partners:
    """Fits the scales of a plan's activations, `params`, to one another, in place.

    Args:
        graph: the float graph.
        params: tensor → parameters.
        target: says whether scales must be powers of two.
        settled: tensors whose parameters stand as they are.
    """

    def __init__(self, graph: Graph, params: dict[str, QuantParams], target: Target, settled: Iterable[str]) -> None:
        self.graph, self.params, self.target, self.settled = graph, params, target, frozenset(settled)
        self.read = consumers(graph)
        self.group: dict[str, Sequence[str]] = {}

    def fit(self, nodes: Sequence[Node], groups: Iterable[Sequence[str]]) -> None:
        """Fits the parameters of groups of tensors, each of which shares one scale."""
        self.group = {name: members for members in groups for name in members}
        blank = {name for name in self.group if is_blank(self.params[name])}
        for _ in range(_ROUNDS):
            before = dict(self.params)
            for node in nodes:
                if blank:
                    self.fill(node, blank)
                self.coarsen(node)
                self.level(node)
                self.follow(node)
            if self.params == before:
                return

    def fill(self, node: Node, blank: set[str]) -> None:
        """Gives tensors of zeros alone the largest scale that stands beside them."""
        names = [name for name in (*node.inputs, *node.outputs) if name in self.params]
        others = [self.params[name].scale[0] for name in names if name not in blank]
        # Factors of a product have units of their own: nothing beside them says which.
        filled = (
            names if operators.lookup(node.op).finest is not None else [n for n in node.outputs if n in self.params]
        )
        bounds = FUSED_BOUNDS.get(fused_activation(node), ())
        least = max((abs(bound) for bound in bounds if bound), default=0.0) / MOST_STEPS
        for name in filled:
            if others and name in blank and len({self.params[n].dtype for n in names}) == 1:
                self.rescale(name, max(*others, least))
                blank.difference_update(self.group[name])

    def coarsen(self, node: Node) -> None:
        """Widens an output whose scale is finer than its operands' rounding."""
        finest, output = operators.lookup(node.op).finest, node.outputs[0]
        scales = [self.params[name].scale[0] for name in node.inputs if name in self.params]
        if finest is not None and scales and output in self.group:
            least = finest(self.params[output].dtype, max(scales))
            if self.params[output].scale[0] < least:
                self.rescale(output, least)

    def level(self, node: Node) -> None:
        """Widens an int8 operand that is much finer than the result, where nothing else reads it."""
        output = node.outputs[0]
        if operators.lookup(node.op).finest is None or output not in self.params or self.params[output].dtype != "int8":
            return
        least = self.params[output].scale[0] * _FINEST_OPERAND
        for name in node.inputs:
            if name in self.group and self.params[name].scale[0] < least and self.is_read_by(name, node):
                self.rescale(name, least)

    def follow(self, node: Node) -> None:
        """Gives a sum the grid of an operand where the other is less than half a step: nothing is rounded then."""
        output = node.outputs[0]
        for name in node.inputs[:1] if node.op == SUB else node.inputs:
            is_apart = {name, output} <= self.group.keys() and self.group[name] is not self.group[output]
            if not is_apart or self.settled.intersection(self.group[output]):
                continue
            params = self.params[name]
            if is_passed(node, name, {**self.params, output: params}) and _holds(params, self.params[output]):
                self.params.update(dict.fromkeys(self.group[output], params))
                return

    def is_read_by(self, name: str, node: Node) -> bool:
        """True where a node alone reads a tensor and those that share its scale, other than to move their values."""
        group = self.group[name]
        readers = [reader for member in group for reader in self.read.get(member, ())]
        moved = (reader.name in group for reader in readers if reader is not node)
        return all(moved) and not any(member in self.graph.outputs for member in group)

    def beside(self, node: Node, position: int, params: QuantParams) -> QuantParams:
        """Returns the parameters of a constant operand: those of its values alone, fit to what it stands beside."""
        op = operators.lookup(node.op)
        others = [name for index, name in enumerate(node.inputs) if index != position and name in self.params]
        scales = [self.params[name].scale[0] for name in (*others, *node.outputs) if name in self.params]
        if op.finest is None or not scales:
            return params
        if is_blank(params):
            return self.with_scale(params, max(scales))
        if node.outputs[0] not in self.params:
            return params
        return self.with_scale(params, max(params.scale[0], self.params[node.outputs[0]].scale[0] * _FINEST_OPERAND))

    def rescale(self, name: str, scale: float) -> None:
        """Gives a tensor and those that share its scale another one."""
        if not self.settled.intersection(self.group[name]):
            self.params.update(dict.fromkeys(self.group[name], self.with_scale(self.params[name], scale)))

    def with_scale(self, params: QuantParams, scale: float) -> QuantParams:
        """Returns parameters with another scale, the next power of two where the target wants one."""
        if self.target.is_power_of_two:
            scale = 2.0 ** float(np.ceil(np.log2(scale)))
        return replace(params, scale=(float(np.float32(min(scale, _LARGEST_SCALE))),))


def is_passed(node: Node, name: str, params: Mapping[str, QuantParams]) -> bool:
    """True for a sum in integers that is one of its operands as it is: on its grid, the other is less than half a step.

    >>> x = QuantParams("int8", (1.0,), (0,))
    >>> node = Node("ADD", ("x", "z"), ("y",), {})
    >>> [is_passed(node, "x", {"x": x, "y": x, "z": QuantParams("int8", (s,), (0,))}) for s in (0.0039, 0.004)]
    [True, False]
    """
    if operators.lookup(node.op).finest is None or name not in params or params[name] != params.get(node.outputs[0]):
        return False
    others = [other for other in node.inputs if other != name]
    return len(others) == 1 and others[0] in params and max(_ends(params[others[0]])) < params[name].scale[0] / 2


def _ends(params: QuantParams) -> tuple[float, float]:
    """Returns how far a grid reaches below and above zero."""
    low, high = (params.scale[0] * (q - params.zero_point[0]) for q in integer_range(params.dtype))
    return -low, high


def _holds(params: QuantParams, other: QuantParams) -> bool:
    """True where a grid is no coarser than another of its type, and reaches as far but for a step."""
    is_fine = params.dtype == other.dtype and params.scale[0] <= other.scale[0] * _HARDLY_COARSER
    return is_fine and all(
        end >= wanted - params.scale[0] for end, wanted in zip(_ends(params), _ends(other), strict=True)
    )


def is_blank(params: QuantParams) -> bool:
    """True for the parameters that a tensor of zeros alone gets, or of values that are nothing to float32."""
    return params.scale == (_BLANK_SCALE,) and params.zero_point == (0,)
